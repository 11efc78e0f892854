//! `hotaddctl`: what an operator sees of hotadd.sys, and asks of it.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    if let Err(error) = hotaddctl::stop::listen() {
        eprintln!("Ctrl-C will end this at once: {error}");
    }
    // The help goes to the terminal as it is styled; anstream takes the styles off where they are of no use.
    ExitCode::from(hotaddctl::run(env::args_os(), &mut anstream::stdout(), &mut anstream::stderr()))
}
