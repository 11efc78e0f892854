//! Sequences of requests: random ones, and changed ones.

use std::fmt::Write as _;

use hotadd_abi::{
    IOCTL_HOTADD_FACTORIAL, IOCTL_HOTADD_JOURNAL_READ, IOCTL_HOTADD_JOURNAL_WAIT, IOCTL_HOTADD_PROCESSORS,
    IOCTL_HOTADD_STATUS,
};
use ntlab::user::Request;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The control codes, and the length of their inputs.
pub const CODES: [(u32, u16); 5] = [
    (IOCTL_HOTADD_FACTORIAL, 8),
    (IOCTL_HOTADD_STATUS, 0),
    (IOCTL_HOTADD_PROCESSORS, 8),
    (IOCTL_HOTADD_JOURNAL_READ, 16),
    (IOCTL_HOTADD_JOURNAL_WAIT, 16),
];
/// In the lowest bits of a control code: the driver gets the caller's own addresses.
const METHOD_NEITHER: u32 = 3;
/// Addresses that callers should not pass: null, misaligned, not there, the kernel's, and the last ones.
const ADDRESSES: [u64; 6] = [0, 1, 0x1_0003, 0x7FFF_FFFE_FFFF, 0xFFFF_8000_0000_1000, u64::MAX - 7];
/// The longest input and output.
const LONGEST: u16 = 4096;
/// How far into an input a random byte lies: beyond every structure.
const FARTHEST: usize = 24;
/// The most threads, and the most that each does.
const LANES: usize = 3;
const STEPS: usize = 8;

/// What a few threads do with the driver's devices at the same time.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Sequence {
    /// What each thread does, in order. In the end it waits for its requests, and cancels those that take long.
    pub lanes: Vec<Vec<Step>>,
}

/// Something that a thread does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Sends a request and does not wait for it.
    Send(Control),
    /// Waits for the request that the thread sent last but so many.
    Wait(u8),
    /// Cancels the request that the thread sent last but so many.
    Cancel(u8),
    /// Closes a handle, whoever uses it; the next request through it opens another one.
    Close(u8),
    /// Lets so many virtual microseconds pass.
    Pass(u16),
}

/// A device-control request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// The number of the handle, one after the other: for each device one for each way to open it.
    pub handle: u8,
    /// The control code.
    #[serde(with = "hexadecimal")]
    pub code: u32,
    /// The length of the input.
    pub input: u16,
    /// How it begins; the rest is zero.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bytes: Vec<u8>,
    /// The length of the output.
    pub output: u16,
    /// Addresses of input and output instead of buffers, where the method is `METHOD_NEITHER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<(u64, u64)>,
}

/// A control code as the headers have it.
mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
    pub fn serialize<S: Serializer>(code: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{code:#010x}"))
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<u32, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").ok_or_else(|| D::Error::custom("a control code begins with 0x"))?;
        u32::from_str_radix(digits, 16).map_err(D::Error::custom)
    }
}

impl Control {
    /// The input.
    #[must_use]
    pub fn input(&self) -> Vec<u8> {
        let mut input = self.bytes.clone();
        input.resize(self.input.into(), 0);
        input
    }

    /// As it is sent.
    #[must_use]
    pub fn request(&self) -> Request {
        let output = self.output;
        match self.addresses {
            Some((from, to)) if self.code & 3 == METHOD_NEITHER => {
                Request::ControlAt { code: self.code, input: (from, self.input.into()), output: (to, output.into()) }
            }
            _ => Request::Control { code: self.code, input: self.input(), output: output.into() },
        }
    }

    /// One that is nearly right most of the time.
    fn random(random: &mut ChaCha8Rng) -> Self {
        let (code, length) = CODES[random.random_range(0..CODES.len())];
        let input = if random.random_range(0..4) == 0 { random.random_range(0..=LONGEST) } else { length };
        let mut control = Self {
            handle: random.random_range(0..10),
            code: near(random, code),
            input,
            bytes: bytes(random, input),
            output: output(random),
            addresses: None,
        };
        if control.code & 3 == METHOD_NEITHER && random.random() {
            control.addresses = Some(addresses(random));
        }
        control
    }

    /// Something else in one place.
    fn change(&mut self, random: &mut ChaCha8Rng) {
        match random.random_range(0..8) {
            0 => self.handle = random.random_range(0..10),
            1 => self.code = near(random, self.code),
            2 => self.code = CODES[random.random_range(0..CODES.len())].0,
            3 => self.input = self.input.wrapping_add_signed(random.random_range(-1..=1)).min(LONGEST),
            4 => self.output = self.output.wrapping_add_signed(random.random_range(-1..=1)).min(LONGEST),
            5 => self.output = output(random),
            6 => self.addresses = Some(addresses(random)),
            _ => self.bytes = bytes(random, self.input),
        }
        self.bytes.truncate(self.input.into());
    }
}

/// The code, or one near it, or any.
fn near(random: &mut ChaCha8Rng, code: u32) -> u32 {
    match random.random_range(0..8) {
        0 => code ^ 1 << random.random_range(0..32),
        1 => (code & !0x3FFC) | random.random_range(0x7F0..0x820) << 2,
        2 if random.random_range(0..2) == 0 => random.random(),
        _ => code,
    }
}

/// Buffers that overlap, are misaligned, or are not there.
fn addresses(random: &mut ChaCha8Rng) -> (u64, u64) {
    let [from, to] = [(); 2].map(|()| ADDRESSES[random.random_range(0..ADDRESSES.len())]);
    (from, if random.random() { from } else { to })
}

fn bytes(random: &mut ChaCha8Rng, length: u16) -> Vec<u8> {
    let length = usize::from(length).min(FARTHEST);
    let mut bytes = vec![0; length];
    // A cursor that may be that of the next event.
    if length > 0 && random.random() {
        bytes[0] = random.random_range(0..32);
    }
    for _ in 0..random.random_range(0..4) {
        let end = if random.random_range(0..3) == 0 { length } else { length.min(4) };
        if end > 0 {
            bytes[random.random_range(0..end)] = random.random();
        }
    }
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    bytes
}

fn output(random: &mut ChaCha8Rng) -> u16 {
    match random.random_range(0..4) {
        0 => random.random_range(0..64),
        1 => random.random_range(0..=LONGEST),
        2 => LONGEST,
        _ => [0, 8, 16, 55, 56, 95, 96, 200, 201][random.random_range(0..9)],
    }
}

impl Step {
    fn random(random: &mut ChaCha8Rng) -> Self {
        match random.random_range(0..16) {
            0 => Self::Wait(random.random_range(0..4)),
            1 => Self::Cancel(random.random_range(0..4)),
            2 => Self::Close(random.random_range(0..10)),
            3 => Self::Pass(random.random_range(0..200)),
            _ => Self::Send(Control::random(random)),
        }
    }
}

impl Sequence {
    /// A random one.
    pub fn random(random: &mut ChaCha8Rng) -> Self {
        let lanes = random.random_range(1..=LANES);
        let mut lane = || (0..random.random_range(1..=STEPS)).map(|_| Step::random(random)).collect();
        Self { lanes: (0..lanes).map(|_| lane()).collect() }
    }

    /// One like it. `other` lends a thread.
    #[must_use]
    pub fn changed(&self, random: &mut ChaCha8Rng, other: &Self) -> Self {
        let mut changed = self.clone();
        for _ in 0..random.random_range(1..4) {
            changed.change(random, other);
        }
        changed
    }

    fn change(&mut self, random: &mut ChaCha8Rng, other: &Self) {
        if self.lanes.len() < LANES && random.random_range(0..8) == 0 {
            return self.lanes.extend(other.lanes.first().cloned());
        }
        let lane = random.random_range(0..self.lanes.len().max(1));
        let Some(steps) = self.lanes.get_mut(lane).filter(|steps| !steps.is_empty()) else {
            return self.lanes.push(vec![Step::random(random)]);
        };
        let place = random.random_range(0..steps.len());
        match random.random_range(0..8) {
            0 if steps.len() > 1 => drop(steps.remove(place)),
            1 if steps.len() < STEPS => steps.insert(place, Step::random(random)),
            2 if steps.len() < STEPS => steps.insert(place, steps[place].clone()),
            _ => match &mut steps[place] {
                Step::Send(control) => control.change(random),
                other => *other = Step::random(random),
            },
        }
    }

    /// How many requests it sends.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.lanes.iter().flatten().filter(|step| matches!(step, Step::Send(_))).count() as u64
    }

    /// How much is in it.
    #[must_use]
    pub fn length(&self) -> usize {
        let bytes = |step: &Step| if let Step::Send(control) = step { control.bytes.len() } else { 0 };
        self.lanes.iter().flatten().map(|step| 64 + bytes(step)).sum()
    }

    /// Those with one thing less.
    #[must_use]
    pub fn shorter(&self) -> Vec<Self> {
        let without = |lane: usize| {
            let mut shorter = self.clone();
            shorter.lanes.remove(lane);
            shorter
        };
        let lanes = (0..self.lanes.len()).filter(|_| self.lanes.len() > 1).map(without);
        let places = self.lanes.iter().enumerate().flat_map(|(lane, steps)| (0..steps.len()).map(move |at| (lane, at)));
        let steps = places.clone().map(|(lane, at)| {
            let mut shorter = self.clone();
            shorter.lanes[lane].remove(at);
            shorter.lanes.retain(|steps| !steps.is_empty());
            shorter
        });
        let plainer = places.filter_map(|(lane, at)| {
            let Step::Send(control) = &self.lanes[lane][at] else { return None };
            let mut shorter = self.clone();
            shorter.lanes[lane][at] = Step::Send(Control { bytes: Vec::new(), addresses: None, ..control.clone() });
            (shorter != *self).then_some(shorter)
        });
        lanes.chain(steps).chain(plainer).filter(|shorter| !shorter.lanes.is_empty()).collect()
    }

    /// As JSON with a step in each line.
    ///
    /// # Errors
    ///
    /// Whatever serde says.
    pub fn to_text(&self) -> serde_json::Result<String> {
        let mut text = String::from("{\"lanes\": [");
        for (number, lane) in self.lanes.iter().enumerate() {
            text.push_str(if number == 0 { "\n  [" } else { ",\n  [" });
            for (number, step) in lane.iter().enumerate() {
                let before = if number == 0 { "" } else { "," };
                let _ = write!(text, "{before}\n    {}", serde_json::to_string(step)?);
            }
            text.push_str("\n  ]");
        }
        text.push_str("\n]}\n");
        Ok(text)
    }
}
