//! The driver's version resource, as a compiled resource file (.res): what both `link.exe` and `lld` take as it is.
//!
//! After "`RESOURCEHEADER` structure", "`VS_VERSIONINFO` structure" and the pages that these name.

/// `RT_VERSION`.
const TYPE: u16 = 16;
/// `VS_VERSION_INFO`, the one number that a version resource may have.
const NAME: u16 = 1;
/// U.S. English and UTF-16.
const LANGUAGE: u16 = 0x0409;
const CODE_PAGE: u16 = 1200;
/// The size of a header whose type and name are numbers.
const HEADER_BYTES: u32 = 32;

/// What the resource says.
pub struct Version<'a> {
    /// Major, minor, build and private number.
    pub number: [u16; 4],
    /// Names and their texts, such as `FileDescription`.
    pub strings: &'a [(&'a str, &'a str)],
}

impl Version<'_> {
    /// The bytes of the resource file.
    pub fn resource_file(&self) -> Vec<u8> {
        let resource = self.resource();
        // A file begins with an empty resource.
        let mut file = header(0, 0, 0, 0);
        file.extend(header(u32::try_from(resource.len()).expect("a small resource"), TYPE, NAME, LANGUAGE));
        file.extend(resource);
        pad(&mut file);
        file
    }

    fn resource(&self) -> Vec<u8> {
        let strings = self.strings.iter().map(|(name, text)| {
            let text = utf16(text);
            block(name, Some(length(text.len() / 2)), &text, &[])
        });
        let table = block(&format!("{LANGUAGE:04x}{CODE_PAGE:04x}"), Some(0), &[], &strings.collect::<Vec<_>>());
        let translation = [LANGUAGE.to_le_bytes(), CODE_PAGE.to_le_bytes()].concat();
        let translation = block("Translation", None, &translation, &[]);
        let children =
            [block("StringFileInfo", Some(0), &[], &[table]), block("VarFileInfo", Some(0), &[], &[translation])];
        block("VS_VERSION_INFO", None, &self.fixed(), &children)
    }

    /// `VS_FIXEDFILEINFO`.
    fn fixed(&self) -> Vec<u8> {
        let [major, minor, build, private] = self.number.map(u32::from);
        let (high, low) = (major << 16 | minor, build << 16 | private);
        let words: [u32; 13] = [
            0xFEEF_04BD, // the signature
            0x0001_0000, // the structure's version
            high,
            low,
            high,
            low,
            0x3F,        // which flags are valid
            0,           // the flags
            0x0004_0004, // VOS_NT_WINDOWS32
            3,           // VFT_DRV
            7,           // VFT2_DRV_SYSTEM
            0,
            0,
        ];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// A resource's header, `data` bytes of which follow.
fn header(data: u32, of_type: u16, name: u16, language: u16) -> Vec<u8> {
    let number = |number: u16| [0xFFFF_u16.to_le_bytes(), number.to_le_bytes()].concat();
    let mut header = [data.to_le_bytes(), HEADER_BYTES.to_le_bytes()].concat();
    header.extend([number(of_type), number(name)].concat());
    header.extend(0_u32.to_le_bytes()); // the data's version
    header.extend(0_u16.to_le_bytes()); // flags that mean nothing since 16-bit Windows
    header.extend(language.to_le_bytes());
    header.extend([0; 8]); // version and characteristics
    header
}

/// A node of the version's tree: text with its length in words, or binary data; then its children.
fn block(key: &str, words: Option<u16>, value: &[u8], children: &[Vec<u8>]) -> Vec<u8> {
    let is_text = words.is_some();
    let value_length = words.unwrap_or_else(|| length(value.len()));
    let mut block = [[0; 2], value_length.to_le_bytes(), u16::from(is_text).to_le_bytes()].concat();
    block.extend(utf16(key));
    pad(&mut block);
    block.extend(value);
    for child in children {
        pad(&mut block);
        block.extend(child);
    }
    let length = length(block.len());
    block[..2].copy_from_slice(&length.to_le_bytes());
    block
}

/// As the tree has lengths.
fn length(length: usize) -> u16 {
    u16::try_from(length).expect("a version resource is less than 64 KiB")
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// UTF-16 with a terminating zero.
fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}
