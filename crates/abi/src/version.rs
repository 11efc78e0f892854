//! Versions of the driver and its tools.

use core::fmt;

/// A version as it crosses the border, in an integer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Version {
    /// Changes when what worked no longer does.
    pub major: u8,
    /// Changes when there is more.
    pub minor: u8,
    /// Changes when something is mended.
    pub patch: u8,
}

impl Version {
    /// The version of this crate, and of the driver and the tools that are built with it.
    pub const THIS: Self = Self {
        major: number(env!("CARGO_PKG_VERSION_MAJOR")),
        minor: number(env!("CARGO_PKG_VERSION_MINOR")),
        patch: number(env!("CARGO_PKG_VERSION_PATCH")),
    };

    /// As it crosses the border.
    #[must_use]
    pub const fn code(self) -> u32 {
        u32::from_be_bytes([0, self.major, self.minor, self.patch])
    }

    /// From how it crosses the border.
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        let [_, major, minor, patch] = code.to_be_bytes();
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A part of the version, while this is compiled.
const fn number(text: &str) -> u8 {
    match u8::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => panic!("the version has a part that does not cross the border"),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    #[test]
    fn a_version_survives_the_way_over_the_border() {
        let version = Version { major: 1, minor: 2, patch: 3 };
        assert_eq!(version.code(), 0x01_0203);
        assert_eq!(Version::from_code(version.code()), version);
        assert_eq!(Version::THIS.to_string(), env!("CARGO_PKG_VERSION"));
    }
}
