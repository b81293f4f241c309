//! The arguments of a benchmark.

use std::fmt::Display;
use std::process::ExitCode;

/// `--smoke`, options with a number, and the names of what to run.
#[derive(Debug)]
pub struct Arguments {
    /// Whether to run briefly.
    pub is_smoke: bool,
    names: Vec<String>,
    options: Vec<(String, f64)>,
}

impl Arguments {
    /// Reads the arguments of this process.
    ///
    /// # Errors
    /// The exit code, after printing what is wrong, if a name is not among `names` or an option not among
    /// `options`.
    pub fn read(names: &[&str], options: &[&str]) -> Result<Self, ExitCode> {
        let mut read = Self {
            is_smoke: false,
            names: Vec::new(),
            options: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                // Added by `cargo bench`.
                "--bench" => {}
                "--smoke" => read.is_smoke = true,
                option if options.contains(&option) => {
                    let value = arguments.next().unwrap_or_default();
                    let number = value.parse().ok().filter(|number| *number > 0.0);
                    let Some(number) = number else {
                        return Err(refuse(format!(
                            "{option} `{value}`: expected a positive number"
                        )));
                    };
                    read.options.push((argument, number));
                }
                name if names.contains(&name) => read.names.push(argument),
                _ => {
                    let known = [names, &["--smoke"][..], options].concat().join(" ");
                    return Err(refuse(format!(
                        "unknown argument `{argument}`; there are: {known}"
                    )));
                }
            }
        }
        Ok(read)
    }

    /// Whether something of this name is to run: all if no names were given.
    pub fn includes(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|given| given == name)
    }

    /// The number of an option.
    pub fn number(&self, option: &str) -> Option<f64> {
        let mut given = self.options.iter().rev();
        Some(given.find(|(name, _)| name == option)?.1)
    }
}

fn refuse(problem: impl Display) -> ExitCode {
    eprintln!("{problem}");
    ExitCode::from(2)
}
