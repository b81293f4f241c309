//! Manual pages in roff.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// Returns the pages of a command and its subcommands, with the names of their files.
pub(super) fn all(definition: Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut definition = definition.disable_help_subcommand(true);
    // Gives subcommands their whole names and the global options.
    definition.build();
    let mut pages = Vec::new();
    add(&definition, &mut pages)?;
    Ok(pages)
}

fn add(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let examples = command.get_after_help().map(ToString::to_string);
    // The generator would call it EXTRA, and join its lines.
    let man = Man::new(command.clone().after_help(None::<&'static str>)).manual("KeyGuard");
    let name = man.get_filename();
    let mut page = Vec::new();
    man.render(&mut page)?;
    let mut rest = Roff::new();
    add_examples(&mut rest, &examples.unwrap_or_default());
    if name != MAIN_PAGE {
        rest.control("SH", ["SEE ALSO"]);
        rest.text([bold("keyguard"), roman("(1)")]);
    }
    rest.to_writer(&mut page)?;
    pages.push((name, page));
    let mut subcommands = command.get_subcommands();
    subcommands.try_for_each(|subcommand| add(subcommand, pages))
}

const MAIN_PAGE: &str = "keyguard.1";

/// Adds the text after the options of `--help`: indented lines as they are, others as paragraphs.
fn add_examples(roff: &mut Roff, text: &str) {
    let mut is_verbatim = false;
    for line in text.lines() {
        if is_verbatim != line.starts_with("  ") {
            is_verbatim = !is_verbatim;
            roff.control(if is_verbatim { "nf" } else { "fi" }, []);
        }
        match line {
            "Examples:" => roff.control("SH", ["EXAMPLES"]),
            "" => roff.control("PP", []),
            line => roff.text([roman(line)]),
        };
    }
    if is_verbatim {
        roff.control("fi", []);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_of_every_command_has_its_options_and_examples() {
        let definition = || {
            let create = Command::new("create")
                .about("Create a thing")
                .arg(clap::Arg::new("name").long("name").help("A name"))
                .after_help("Examples:\n  kg create --name '.x'\n\nA note.");
            Command::new("kg").version("1").subcommand(create)
        };
        let pages = all(definition()).unwrap();
        assert_eq!(pages, all(definition()).unwrap(), "equal in each build");
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["kg.1", "kg-create.1"]);
        let page = String::from_utf8(pages[1].1.clone()).unwrap();
        for part in [
            "kg\\-create \\- Create a thing",
            "\\fB\\-\\-name\\fR",
            ".SH EXAMPLES\n.nf\n  kg create \\-\\-name \\*(Aq.x\\*(Aq\n.fi\n.PP\nA note.\n",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }
}
