//! The qtest protocol: a line for each command, a line for its answer, and a line whenever an interrupt line changes, at any time.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};

use thiserror::Error;

/// A change of an interrupt line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Level {
    /// Its number at the interrupt controller.
    pub line: u32,
    /// Whether it is up now.
    pub up: bool,
}

/// The device is gone.
#[derive(Debug, Error)]
pub enum Lost {
    /// QEMU closed the connection: it ended.
    #[error("QEMU ended")]
    Ended,
    /// The connection broke.
    #[error("the connection to QEMU broke: {0}")]
    Broken(#[from] io::Error),
    /// What came back is no answer.
    #[error("QEMU answered `{answer}` to `{command}`")]
    Answer {
        /// What was asked.
        command: String,
        /// What came.
        answer: String,
    },
}

/// A connection to QEMU.
#[derive(Debug)]
pub struct Qtest {
    stream: BufReader<UnixStream>,
    levels: Vec<Level>,
}

impl Qtest {
    /// The protocol over a connection.
    pub const fn new(stream: BufReader<UnixStream>) -> Self {
        Self { stream, levels: Vec::new() }
    }

    /// Sends a command that answers with nothing but its success.
    pub fn tell(&mut self, command: &str) -> Result<(), Lost> {
        self.ask(command).map(drop)
    }

    /// Sends a command that answers with a number.
    pub fn number(&mut self, command: &str) -> Result<u64, Lost> {
        let answer = self.ask(command)?;
        let digits = answer.strip_prefix("0x");
        let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        number.ok_or_else(|| Lost::Answer { command: command.to_owned(), answer })
    }

    /// The changes of interrupt lines that came since the last call, in order.
    pub fn take_levels(&mut self) -> Vec<Level> {
        std::mem::take(&mut self.levels)
    }

    fn ask(&mut self, command: &str) -> Result<String, Lost> {
        self.stream.get_mut().write_all(format!("{command}\n").as_bytes())?;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(Lost::Ended);
            }
            let line = line.trim_end();
            match (level(line), line.strip_prefix("OK")) {
                (Some(level), _) => self.levels.push(level),
                (None, Some(answer)) => return Ok(answer.trim_start().to_owned()),
                (None, None) => return Err(Lost::Answer { command: command.to_owned(), answer: line.to_owned() }),
            }
        }
    }
}

fn level(line: &str) -> Option<Level> {
    let (change, number) = line.strip_prefix("IRQ ")?.split_once(' ')?;
    let up = match change {
        "raise" => true,
        "lower" => false,
        _ => return None,
    };
    Some(Level { line: number.parse().ok()?, up })
}

#[cfg(test)]
mod tests {
    use std::{io::Read, thread};

    use super::*;

    /// What a client makes of a server that sends this after the first command.
    fn after(reply: &'static str, client: impl FnOnce(&mut Qtest)) {
        let (near, mut far) = UnixStream::pair().expect("the host has sockets");
        let server = thread::spawn(move || {
            let mut command = [0; 8];
            far.read_exact(&mut command).expect("the command comes");
            far.write_all(reply.as_bytes()).expect("the client listens");
        });
        client(&mut Qtest::new(BufReader::new(near)));
        server.join().expect("the server is done");
    }

    #[test]
    fn changes_of_lines_may_come_before_an_answer() {
        after("IRQ raise 20\nIRQ lower 20\nOK 0x12\n", |qtest| {
            assert_eq!(qtest.number("readl 1").expect("an answer"), 0x12);
            assert_eq!(qtest.take_levels(), [Level { line: 20, up: true }, Level { line: 20, up: false }]);
            assert_eq!(qtest.take_levels(), []);
        });
    }

    #[test]
    fn what_is_no_answer_is_told_with_its_command() {
        after("FAIL Unknown command\n", |qtest| {
            let refusal = qtest.tell("readl 1").expect_err("QEMU refused");
            assert_eq!(refusal.to_string(), "QEMU answered `FAIL Unknown command` to `readl 1`");
        });
    }

    #[test]
    fn the_end_of_the_connection_is_the_loss_of_the_device() {
        after("", |qtest| assert!(matches!(qtest.tell("readl 1"), Err(Lost::Ended))));
    }
}
