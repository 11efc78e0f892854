//! `kit build|check PACKAGE…`: builds or lints drivers, without the lab that `xtask` brings along.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["build", packages @ ..] if !packages.is_empty() => packages
            .iter()
            .try_for_each(|package| kit::driver(package).map(|built| println!("{}", built.sys.display()))),
        ["check", packages @ ..] if !packages.is_empty() => kit::clippy(packages),
        _ => {
            eprintln!("usage: kit build|check PACKAGE…");
            return ExitCode::from(2);
        }
    };
    done.map_or_else(
        |error| {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
