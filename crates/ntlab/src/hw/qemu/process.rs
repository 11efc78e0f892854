//! A QEMU process with an `edu` device: started here, ended with its owner whatever happens.

use std::{
    fs::{self, File},
    io::{self, BufReader},
    os::{
        fd::AsRawFd,
        unix::{
            fs::FileExt,
            net::{UnixListener, UnixStream},
        },
    },
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{MemfdFlags, memfd_create};
use tempfile::TempDir;
use thiserror::Error;

use super::qtest::{Level, Lost, Qtest};
use crate::hw::pci::{INTERRUPT_LINE, Message};

const PROGRAM: &str = "qemu-system-x86_64";
/// RAM of QEMU's machine, which this process shares: all that the device's 28 address bits reach, and more.
pub const RAM_BYTES: u64 = 512 << 20;
/// Where the device's messages are written to, in RAM and out of reach of its transfers.
pub const MAILBOX: u64 = 384 << 20;
/// What no message is: they are of 16 bits.
const EMPTY: u32 = u32::MAX;
/// The input of QEMU's interrupt controller that the pin of the device in slot 4 is wired to.
const PIN: u32 = 20;
/// Bus 0, slot 4, function 0.
const CONFIG_ADDRESS: usize = 0x8000_2000;
/// Offset of the message address in configuration space.
const MESSAGE_ADDRESS: usize = 0x44;
/// What makes the chip set reset everything.
const RESET_CONTROL: [u8; 2] = [0x02, 0x06];
const FIRMWARE_BYTES: usize = 0x1_0000;
/// CLI; HLT; jump back to it: where the processor starts.
const FIRMWARE_ENTRY: (usize, [u8; 4]) = (0xFFF0, [0xFA, 0xF4, 0xEB, 0xFD]);
const HALT: u8 = 0xF4;
/// How long QEMU may take to start, and to answer.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(1);

/// Why there is no real device.
#[derive(Debug, Error)]
pub enum QemuError {
    /// QEMU is not installed.
    #[error("{PROGRAM} is not installed; on Debian: apt-get install --no-install-recommends qemu-system-x86")]
    Absent,
    /// It does not say its version.
    #[error("`{PROGRAM} --version` says `{0}`")]
    Version(String),
    /// It does not start.
    #[error("{PROGRAM} did not start: {0}")]
    Start(String),
    /// The host refuses what it needs.
    #[error("the host: {0}")]
    Host(#[from] io::Error),
    /// It ended at once.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// A version of QEMU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    /// Such as 7 of 7.2.
    pub major: u32,
    /// Such as 2 of 7.2.
    pub minor: u32,
}

/// The version of the installed QEMU.
///
/// # Errors
///
/// It is not installed, or does not say.
pub fn version() -> Result<Version, QemuError> {
    let output = Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => QemuError::Absent,
        _ => QemuError::Host(error),
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_version(&text).ok_or(QemuError::Version(text))
}

/// "QEMU emulator version 7.2.22 (…)".
fn parse_version(text: &str) -> Option<Version> {
    let number = text.split_once("version ")?.1;
    let mut numbers = number.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some(Version { major: numbers.next()?.ok()?, minor: numbers.next()?.ok()? })
}

/// A running QEMU with an `edu` device.
#[derive(Debug)]
pub struct Qemu {
    qtest: Qtest,
    ram: File,
    version: Version,
    child: Ended,
    /// Holds the firmware, the socket and what QEMU says; goes last.
    _directory: TempDir,
}

/// A child process that is killed when this is dropped.
#[derive(Debug)]
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Qemu {
    /// Starts QEMU; the device has just been powered on.
    ///
    /// # Errors
    ///
    /// Why it does not run.
    pub fn start() -> Result<Self, QemuError> {
        let version = version()?;
        let directory = tempfile::tempdir()?;
        let ram = File::from(memfd_create("ram", MemfdFlags::CLOEXEC).map_err(io::Error::from)?);
        ram.set_len(RAM_BYTES)?;
        fs::write(directory.path().join("firmware"), firmware())?;
        let listener = UnixListener::bind(directory.path().join("qtest"))?;
        let mut child = Ended(command(&directory, &ram)?.spawn()?);
        let stream = accept(&listener, &mut child.0, &directory)?;
        let qtest = Qtest::new(BufReader::new(stream));
        let mut qemu = Self { qtest, ram, version, child, _directory: directory };
        qemu.qtest.tell("irq_intercept_in ioapic")?;
        qemu.empty_mailbox()?;
        qemu.write_config(MESSAGE_ADDRESS, &MAILBOX.to_le_bytes())?;
        Ok(qemu)
    }

    /// Its version.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Ends it, which is pulling the device out.
    pub fn kill(&mut self) {
        // It fails only where it has ended already.
        let _gone = self.child.0.kill();
    }

    /// Resets the machine and its bus: the device's registers, its buffer and what it has under way survive that, its configuration does
    /// not, but for the message address, which is [`MAILBOX`] again.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn reset(&mut self) -> Result<(), Lost> {
        // It happens a little later: a register that only a reset clears tells when.
        self.write_config(INTERRUPT_LINE, &[0xFF])?;
        for value in RESET_CONTROL {
            self.qtest.tell(&format!("outb 0xcf9 {value:#x}"))?;
        }
        while self.read_config(INTERRUPT_LINE)? & 0xFF != 0 {
            thread::sleep(PAUSE);
        }
        self.write_config(MESSAGE_ADDRESS, &MAILBOX.to_le_bytes())
    }

    /// Reads `size` bytes at a physical address.
    ///
    /// # Errors
    ///
    /// The device is gone.
    ///
    /// # Panics
    ///
    /// If `size` is not 1, 2, 4 or 8.
    pub fn read(&mut self, address: u64, size: u8) -> Result<u64, Lost> {
        self.qtest.number(&format!("read{} {address:#x}", letter(size)))
    }

    /// Writes `size` bytes at a physical address.
    ///
    /// # Errors
    ///
    /// The device is gone.
    ///
    /// # Panics
    ///
    /// If `size` is not 1, 2, 4 or 8.
    pub fn write(&mut self, address: u64, size: u8, value: u64) -> Result<(), Lost> {
        let value = value & u64::MAX >> (64 - 8 * u32::from(size));
        self.qtest.tell(&format!("write{} {address:#x} {value:#x}", letter(size)))
    }

    /// Reads 4 aligned bytes of the device's configuration space.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn read_config(&mut self, offset: usize) -> Result<u32, Lost> {
        self.select_config(offset)?;
        Ok(u32::try_from(self.qtest.number("inl 0xcfc")?).unwrap_or(u32::MAX))
    }

    /// Writes the device's configuration space.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn write_config(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Lost> {
        let (mut offset, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (size, letter) = match (offset % 4, rest.len()) {
                (0, 4..) => (4, 'l'),
                (0 | 2, 2..) => (2, 'w'),
                _ => (1, 'b'),
            };
            let (now, later) = rest.split_at(size);
            let value = now.iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
            self.select_config(offset)?;
            self.qtest.tell(&format!("out{letter} {:#x} {value:#x}", 0xCFC + offset % 4))?;
            offset += size;
            rest = later;
        }
        Ok(())
    }

    fn select_config(&mut self, offset: usize) -> Result<(), Lost> {
        self.qtest.tell(&format!("outl 0xcf8 {:#x}", CONFIG_ADDRESS | offset & !3))
    }

    /// The changes of the device's interrupt line that are known, in order.
    pub fn take_line(&mut self) -> Vec<bool> {
        let levels = self.qtest.take_levels().into_iter();
        levels.filter(|Level { line, .. }| *line == PIN).map(|Level { up, .. }| up).collect()
    }

    /// The message that the device wrote to [`MAILBOX`] since the last call. Several that came meanwhile are one.
    ///
    /// # Errors
    ///
    /// The host refuses access to the memory.
    pub fn take_message(&mut self) -> Result<Option<Message>, Lost> {
        let mut bytes = [0; 4];
        self.ram.read_exact_at(&mut bytes, MAILBOX)?;
        let Ok(data) = u16::try_from(u32::from_le_bytes(bytes)) else { return Ok(None) };
        self.empty_mailbox()?;
        Ok(Some(Message { address: MAILBOX, data }))
    }

    fn empty_mailbox(&self) -> Result<(), Lost> {
        Ok(self.ram.write_all_at(&EMPTY.to_le_bytes(), MAILBOX)?)
    }

    /// Reads RAM: zeros where there is none.
    ///
    /// # Errors
    ///
    /// The host refuses access to the memory.
    pub fn read_ram(&self, address: u64, bytes: &mut [u8]) -> Result<(), Lost> {
        bytes.fill(0);
        let inside = inside_ram(address, bytes.len());
        Ok(self.ram.read_exact_at(&mut bytes[..inside], address)?)
    }

    /// Writes RAM; nothing where there is none.
    ///
    /// # Errors
    ///
    /// The host refuses access to the memory.
    pub fn write_ram(&self, address: u64, bytes: &[u8]) -> Result<(), Lost> {
        Ok(self.ram.write_all_at(&bytes[..inside_ram(address, bytes.len())], address)?)
    }
}

fn inside_ram(address: u64, length: usize) -> usize {
    usize::try_from(RAM_BYTES.saturating_sub(address)).map_or(length, |room| room.min(length))
}

fn letter(size: u8) -> char {
    match size {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        8 => 'q',
        _ => panic!("an access of {size} bytes"),
    }
}

fn firmware() -> Vec<u8> {
    let mut image = vec![HALT; FIRMWARE_BYTES];
    let (entry, code) = FIRMWARE_ENTRY;
    image[entry..entry + code.len()].copy_from_slice(&code);
    image
}

/// QEMU in the directory, with `ram` as its memory. It dies with the thread that starts it, if that does not end it.
fn command(directory: &TempDir, ram: &File) -> Result<Command, QemuError> {
    let backend = format!(
        "memory-backend-file,id=ram0,size={RAM_BYTES},share=on,mem-path=/proc/{}/fd/{}",
        process::id(),
        ram.as_raw_fd()
    );
    let memory = format!("{}M", RAM_BYTES >> 20);
    let arguments = [
        ["-machine", "q35,accel=tcg,pit=off,hpet=off,memory-backend=ram0"],
        // The virtual clock goes on to the next timer while the processor is halted: a transfer takes no real time.
        ["-icount", "shift=0,sleep=off"],
        ["-display", "none"],
        ["-m", &memory],
        ["-object", &backend],
        ["-bios", "firmware"],
        ["-device", "edu,id=edu0,addr=04.0"],
        ["-qtest", "unix:qtest"],
        ["-qtest-log", "none"],
    ];
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", PROGRAM, "-nodefaults", "-no-user-config"]).args(arguments.as_flattened());
    let said = File::create(directory.path().join("said"))?;
    command.current_dir(directory.path()).stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
    Ok(command)
}

fn accept(listener: &UnixListener, child: &mut Child, directory: &TempDir) -> Result<UnixStream, QemuError> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) => {}
        }
        if child.try_wait()?.is_some() {
            return Err(QemuError::Start(fs::read_to_string(directory.path().join("said"))?.trim().to_owned()));
        }
        if Instant::now() > deadline {
            return Err(QemuError::Start("it does not connect".to_owned()));
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_what_qemu_says_first() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright (c) 2003-2022";
        assert_eq!(parse_version(text), Some(Version { major: 7, minor: 2 }));
        assert_eq!(parse_version("QEMU emulator version 10.0.0-rc1"), Some(Version { major: 10, minor: 0 }));
        assert_eq!(parse_version("something else"), None);
    }
}
