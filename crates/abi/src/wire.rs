//! Structures that cross the user/kernel border: fixed layout, no padding, converted to and from bytes field by field.

/// Why bytes do not make a structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// There are fewer bytes than the structure has.
    TooShort,
    /// A reserved field is not zero.
    Reserved,
}

/// A structure with a fixed little-endian layout and no padding.
pub trait Wire: Sized {
    /// How many bytes it has.
    const SIZE: usize;

    /// So many bytes.
    type Bytes: AsRef<[u8]> + AsMut<[u8]>;

    /// So many zeros.
    const ZEROS: Self::Bytes;

    /// Reads it from the start of `bytes`; what follows is left alone.
    ///
    /// # Errors
    ///
    /// [`WireError::TooShort`] if there are fewer than [`Wire::SIZE`] bytes, [`WireError::Reserved`] if a reserved
    /// field is not zero.
    fn from_bytes(bytes: &[u8]) -> Result<Self, WireError>;

    /// Writes it to the start of `bytes` and returns what follows, or `None`, with nothing written, if it does not fit.
    fn write_to<'a>(&self, bytes: &'a mut [u8]) -> Option<&'a mut [u8]>;

    /// Its bytes.
    fn to_bytes(&self) -> Self::Bytes {
        let mut bytes = Self::ZEROS;
        // They fit: `Bytes` has the size.
        self.write_to(bytes.as_mut());
        bytes
    }
}

/// An integer of a [`Wire`] structure.
pub trait Field: Sized {
    /// Takes the integer off the front of `bytes`; returns what follows too.
    fn take(bytes: &[u8]) -> Option<(Self, &[u8])>;
    /// Puts the integer at the front of `bytes`; returns what follows.
    fn put(self, bytes: &mut [u8]) -> Option<&mut [u8]>;
}

macro_rules! fields {
    ($($integer:ty),*) => {$(
        impl Field for $integer {
            fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
                let (front, rest) = bytes.split_first_chunk()?;
                Some((Self::from_le_bytes(*front), rest))
            }

            fn put(self, bytes: &mut [u8]) -> Option<&mut [u8]> {
                let (front, rest) = bytes.split_first_chunk_mut()?;
                *front = self.to_le_bytes();
                Some(rest)
            }
        }
    )*};
}
fields!(u8, u16, u32, u64, i32);

/// Puts an integer where it belongs in the bytes of a structure; for [`write_in_place`](crate::write_in_place).
#[doc(hidden)]
#[inline]
pub fn put_at<S, F: Field>(bytes: &mut [u8], offset: usize, _: fn(&S) -> F, value: F) {
    if let Some(place) = bytes.get_mut(offset..) {
        value.put(place);
    }
}

/// Writes all fields of a [`Wire`] structure to its bytes, one after the other.
///
/// `let` between them names what several of them need. A structure that is made first would have to be copied from where it was made.
#[macro_export]
macro_rules! write_in_place {
    ($bytes:expr, $name:ident { $($items:tt)* }) => {
        let bytes: &mut <$name as $crate::Wire>::Bytes = $bytes;
        $crate::write_in_place!(@write bytes, $name, [] $($items)*);
    };
    (@write $bytes:ident, $name:ident, [$($written:ident)*]) => {
        // Does not compile where one is missing.
        let _all: fn($name) = |$name { $($written: _,)* }| ();
    };
    (@write $bytes:ident, $name:ident, [$($written:ident)*] let $known:ident = $value:expr; $($items:tt)*) => {
        let $known = $value;
        $crate::write_in_place!(@write $bytes, $name, [$($written)*] $($items)*);
    };
    (@write $bytes:ident, $name:ident, [$($written:ident)*] $field:ident: $value:expr, $($items:tt)*) => {
        $crate::put_at($bytes, ::core::mem::offset_of!($name, $field), |all: &$name| all.$field, $value);
        $crate::write_in_place!(@write $bytes, $name, [$($written)* $field] $($items)*);
    };
}

/// Defines a [`Wire`] structure; the size is checked against the sum of its fields, so that there is no padding.
/// A field marked `@reserved` must be zero.
macro_rules! wire {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $size:literal {
            $($(#[$field_meta:meta])* pub $field:ident: $kind:ty,)*
            $(@reserved $reserved:ident: $reserved_kind:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $kind,)*
            $(
                /// Reserved: zero.
                pub $reserved: $reserved_kind,
            )*
        }

        impl $crate::wire::Wire for $name {
            const SIZE: usize = $size;
            type Bytes = [u8; $size];
            const ZEROS: [u8; $size] = [0; $size];

            fn from_bytes(bytes: &[u8]) -> Result<Self, $crate::wire::WireError> {
                let rest = bytes;
                $(let ($field, rest) = $crate::wire::Field::take(rest).ok_or($crate::wire::WireError::TooShort)?;)*
                $(let ($reserved, rest) = $crate::wire::Field::take(rest).ok_or($crate::wire::WireError::TooShort)?;)*
                let _ = rest;
                let parsed = Self { $($field,)* $($reserved,)* };
                $(if parsed.$reserved != 0 {
                    return Err($crate::wire::WireError::Reserved);
                })*
                Ok(parsed)
            }

            fn write_to<'a>(&self, bytes: &'a mut [u8]) -> Option<&'a mut [u8]> {
                if bytes.len() < Self::SIZE {
                    return None;
                }
                let rest = bytes;
                $(let rest = $crate::wire::Field::put(self.$field, rest)?;)*
                $(let rest = $crate::wire::Field::put(self.$reserved, rest)?;)*
                Some(rest)
            }
        }

        const _: () = assert!(core::mem::size_of::<$name>() == $size, "the stated size is wrong");
        const _: () = assert!(
            $size == $(core::mem::size_of::<$kind>() +)* $(core::mem::size_of::<$reserved_kind>() +)* 0,
            "there is padding"
        );
    };
}
pub(crate) use wire;
