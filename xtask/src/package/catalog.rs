//! The catalog: a PKCS #7 message that holds a certificate trust list of the package's files by their hashes, without signature.
//!
//! As `Inf2Cat` writes it for Windows 10, with SHA-256 alone ("Catalog Files and Digital Signatures", "`CTL_INFO` structure",
//! `mscat.h`, `wintrust.h`).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use authenticode::authenticode_digest;
use der::asn1::{Any, BmpString, Null, ObjectIdentifier, OctetString, SetOfVec, UtcTime};
use der::{Decode, Encode, Sequence, ValueOrd};
use object::read::pe::PeFile64;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
/// `szOID_CTL`
const TRUST_LIST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.10.1");
/// `szOID_CATALOG_LIST`
const CATALOG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.1.1");
/// `szOID_CATALOG_LIST_MEMBER2`: members are known by their SHA-256.
const MEMBERS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.1.3");
/// `CAT_NAMEVALUE_OBJID`
const NAME_VALUE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.2.1");
/// `CAT_MEMBERINFO2_OBJID`
const MEMBER_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.2.3");
/// `SPC_INDIRECT_DATA_OBJID`
const INDIRECT_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.4");
/// `SPC_PE_IMAGE_DATA_OBJID`
const PE_IMAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.15");
/// `SPC_LINK_OBJID`
const LINK: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.25");

/// `CRYPTCAT_ATTR_AUTHENTICATED`, `CRYPTCAT_ATTR_NAMEASCII`, `CRYPTCAT_ATTR_DATAASCII`: a text that is signed.
const TEXT: u32 = 0x1001_0001;
/// The systems that the catalog is for, as `Inf2Cat` names Windows 10 and Windows Server 2016 and what came after them, for x64.
const SYSTEMS: &str = "_v100_X64,Server_v100_X64";
/// The version of those systems, each member's own.
const SYSTEM_VERSION: &str = "2:10.0";

/// A file that the catalog vouches for.
pub struct Member<'a> {
    /// Its name in the package.
    pub name: &'a str,
    /// What is in it.
    pub contents: &'a [u8],
}

/// Makes the catalog of `members` for the devices `hardware_ids`; `time` is when, in UTC.
///
/// # Errors
///
/// A member that is called a driver is no image.
pub fn make(members: &[Member<'_>], hardware_ids: &[String], time: OffsetDateTime) -> Result<Vec<u8>> {
    // As `Inf2Cat`, in the order of the hashes.
    let mut subjects = members.iter().map(subject).collect::<Result<Vec<_>>>()?;
    subjects.sort_by(|one, other| one.hash.as_bytes().cmp(other.hash.as_bytes()));
    let ids = hardware_ids.iter().enumerate();
    let ids = ids.map(|(index, id)| (format!("HWID{}", index + 1), id.to_ascii_lowercase()));
    let names = std::iter::once(("OS".to_owned(), SYSTEMS.to_owned())).chain(ids);
    let extensions = names.map(|(name, value)| {
        let value = OctetString::new(name_value(&name, &value)?.to_der()?)?;
        Ok(Extension { kind: NAME_VALUE, value })
    });
    let list = TrustList {
        usage: vec![CATALOG],
        // Any 16 bytes that no other catalog has.
        identifier: OctetString::new(&Sha256::digest(subjects.to_der()?)[..16])?,
        time: UtcTime::from_unix_duration(Duration::from_secs(time.unix_timestamp().try_into()?))?,
        algorithm: Algorithm { kind: MEMBERS, parameters: Null },
        subjects,
        extensions: extensions.collect::<Result<_>>()?,
    };
    let content = Content { kind: TRUST_LIST, list };
    let message = SignedData { version: 1, digest_algorithms: SetOfVec::new(), content, signers: SetOfVec::new() };
    Ok(Message { kind: SIGNED_DATA, message }.to_der()?)
}

/// The hash by which Windows knows a file: Authenticode's for an image, so that signing it changes nothing; else of all of it.
fn hash(member: &Member<'_>) -> Result<Vec<u8>> {
    let mut hasher = Sha256::new();
    if is_image(member) {
        let image = PeFile64::parse(member.contents).with_context(|| format!("{} is no image", member.name))?;
        let digested = authenticode_digest(&image, &mut hasher);
        digested.map_err(|error| anyhow!("hashing {}: {error}", member.name))?;
    } else {
        hasher.update(member.contents);
    }
    Ok(hasher.finalize().to_vec())
}

fn is_image(member: &Member<'_>) -> bool {
    Path::new(member.name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("sys"))
}

fn subject(member: &Member<'_>) -> Result<Subject> {
    let hash = hash(member)?;
    // SpcPeImageData with every flag and no file; SpcLink with no file.
    let (info, kind, value): (&[u8], _, &[u8]) = if is_image(member) {
        (&[0x80, 0], PE_IMAGE, &[0x30, 10, 3, 2, 5, 0xA0, 0xA0, 4, 0xA2, 2, 0x80, 0])
    } else {
        (&[0x82, 0], LINK, &[0xA2, 2, 0x80, 0])
    };
    let indirect = IndirectData {
        data: TypedValue { kind, value: Any::from_der(value)? },
        digest: DigestInfo {
            algorithm: Algorithm { kind: SHA256, parameters: Null },
            digest: OctetString::new(hash.as_slice())?,
        },
    };
    let attributes = [
        attribute(NAME_VALUE, &name_value("File", member.name)?)?,
        attribute(NAME_VALUE, &name_value("OSAttr", SYSTEM_VERSION)?)?,
        attribute(MEMBER_INFO, &Any::from_der(info)?)?,
        attribute(INDIRECT_DATA, &indirect)?,
    ];
    Ok(Subject { hash: OctetString::new(hash)?, attributes: SetOfVec::try_from(attributes)? })
}

fn attribute(kind: ObjectIdentifier, value: &impl Encode) -> Result<Attribute> {
    Ok(Attribute { kind, values: SetOfVec::try_from([Any::from_der(&value.to_der()?)?])? })
}

/// A named text; the text is UTF-16 with a terminating zero.
fn name_value(name: &str, value: &str) -> Result<NameValue> {
    let value: Vec<u8> = value.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    Ok(NameValue { name: BmpString::from_utf8(name)?, flags: TEXT, value: OctetString::new(value)? })
}

#[derive(Sequence)]
struct Message {
    kind: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    message: SignedData,
}

#[derive(Sequence)]
struct SignedData {
    version: u8,
    digest_algorithms: SetOfVec<Null>,
    content: Content,
    signers: SetOfVec<Null>,
}

#[derive(Sequence)]
struct Content {
    kind: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    list: TrustList,
}

#[derive(Sequence)]
struct TrustList {
    usage: Vec<ObjectIdentifier>,
    identifier: OctetString,
    time: UtcTime,
    algorithm: Algorithm,
    subjects: Vec<Subject>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    extensions: Vec<Extension>,
}

#[derive(Sequence)]
struct Subject {
    hash: OctetString,
    attributes: SetOfVec<Attribute>,
}

#[derive(Sequence, ValueOrd)]
struct Attribute {
    kind: ObjectIdentifier,
    values: SetOfVec<Any>,
}

#[derive(Sequence)]
struct Extension {
    kind: ObjectIdentifier,
    value: OctetString,
}

#[derive(Sequence)]
struct NameValue {
    name: BmpString,
    flags: u32,
    value: OctetString,
}

#[derive(Sequence)]
struct IndirectData {
    data: TypedValue,
    digest: DigestInfo,
}

#[derive(Sequence)]
struct TypedValue {
    kind: ObjectIdentifier,
    value: Any,
}

#[derive(Sequence)]
struct DigestInfo {
    algorithm: Algorithm,
    digest: OctetString,
}

#[derive(Sequence)]
struct Algorithm {
    kind: ObjectIdentifier,
    parameters: Null,
}
