//! Counted UTF-16 strings ("`UNICODE_STRING` structure").

use core::marker::PhantomData;

use wdk_sys::UNICODE_STRING;

/// A borrowed counted string.
#[derive(Clone, Copy)]
pub struct UnicodeStr<'a> {
    raw: UNICODE_STRING,
    text: PhantomData<&'a [u16]>,
}

// SAFETY: the string is borrowed shared and never written through; where the borrow may go, the pointer may.
unsafe impl Send for UnicodeStr<'_> {}
// SAFETY: as above.
unsafe impl Sync for UnicodeStr<'_> {}

impl<'a> UnicodeStr<'a> {
    /// The string over `text`; what is beyond 32,766 units is cut off.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn new(text: &'a [u16]) -> Self {
        const MOST: usize = 0x7ffe;
        #[expect(clippy::cast_possible_truncation, reason = "at most 0xfffc")]
        let bytes = (if text.len() > MOST { MOST } else { text.len() }).wrapping_mul(2) as u16;
        let raw = UNICODE_STRING { Length: bytes, MaximumLength: bytes, Buffer: text.as_ptr().cast_mut() };
        Self { raw, text: PhantomData }
    }

    /// The string that the kernel handed over.
    ///
    /// # Safety
    ///
    /// `raw` describes a string that stays as it is for `'a`.
    #[must_use]
    pub const unsafe fn from_raw(raw: UNICODE_STRING) -> Self {
        Self { raw, text: PhantomData }
    }

    /// The structure for a kernel function that only reads it, whatever its parameter's type says.
    pub(crate) const fn raw(&self) -> UNICODE_STRING {
        self.raw
    }
}

/// The UTF-16 form of an ASCII literal; anything else does not compile.
#[doc(hidden)]
#[must_use]
pub const fn widen<const N: usize>(text: &str) -> [u16; N] {
    let bytes = text.as_bytes();
    assert!(bytes.len() == N, "the length is that of the text");
    let mut wide = [0; N];
    let mut at = 0;
    while at < N {
        assert!(bytes[at].is_ascii(), "only ASCII literals");
        wide[at] = bytes[at] as u16;
        at += 1;
    }
    wide
}

/// A [`UnicodeStr`] from an ASCII literal, made at compile time.
#[macro_export]
macro_rules! unicode {
    ($text:literal) => {{
        const WIDE: &[u16] = &const { $crate::string::widen::<{ $text.len() }>($text) };
        const { $crate::string::UnicodeStr::new(WIDE) }
    }};
}
