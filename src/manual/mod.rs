#![doc = include_str!("links.md")]
#![doc = include_str!("README.md")]

macro_rules! pages {
    ($($(#[$condition:meta])* $name:ident = $file:literal;)*) => {$(
        $(#[$condition])*
        pub mod $name {
            #![doc = include_str!("links.md")]
            #![doc = include_str!($file)]
        }
    )*};
}

// The links of `links.md` come first, so that they replace those at the end of each page, which lead to
// the files.
pages! {
    behind_a_proxy = "behind_a_proxy.md";
    capacities = "capacities.md";
    embedding = "embedding.md";
    faq = "faq.md";
    file_format = "file_format.md";
    limits = "limits.md";
    lockouts = "lockouts.md";
    #[cfg(any(not(doctest), feature = "axum"))]
    middleware = "middleware.md";
    monitoring = "monitoring.md";
    operations = "operations.md";
    policy = "policy.md";
    policy_fields = "policy_fields.md";
    proofs = "proofs.md";
    python_package = "python_package.md";
    scale_out = "scale_out.md";
    security = "security.md";
    sidecar = "sidecar.md";
    sizing = "sizing.md";
    webhooks = "webhooks.md";
}
