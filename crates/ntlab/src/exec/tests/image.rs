//! The loader.

use super::guest::{Guest, build};
use crate::{
    exec::LoadError,
    memory::{PageKind, Ptr},
};

#[test]
fn sections_have_the_protection_the_image_asks_for() {
    Guest::new().run(|guest| {
        let kind = |name: &str| guest.image.sections.iter().find(|section| section.name == name).map(|s| s.kind);
        assert_eq!(kind(".text"), Some(PageKind::ImageCode));
        assert_eq!(kind(".rdata"), Some(PageKind::ImageReadOnly));
        assert_eq!(kind("PAGE"), Some(PageKind::PagedCode));
        for section in &guest.image.sections {
            assert_eq!(guest.k.memory.space.kind(section.start), section.kind, "{}", section.name);
        }
        assert_eq!(guest.k.memory.space.kind(guest.image.base), PageKind::ImageReadOnly, "the headers");
        assert_eq!(Ptr::new(guest.image.base).read_bytes(2), b"MZ");
    });
}

#[test]
fn every_import_that_is_missing_is_named_with_its_module() {
    Guest::new().run(|guest| {
        let Err(LoadError::MissingImports(missing)) = guest.k.exec.load(&build("missing")) else {
            panic!("the image does not load")
        };
        let mut names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        names.sort();
        assert_eq!(
            names,
            ["ndis.sys!LabSum", "ntoskrnl.exe!LabNoSuchFunction", "ntoskrnl.exe!LabNoSuchFunctionEither"]
        );
    });
}

#[test]
fn what_is_no_driver_image_is_refused() {
    Guest::new().run(|guest| {
        let program = std::env::current_exe().expect("a test knows its file");
        assert!(matches!(guest.k.exec.load(&program), Err(LoadError::Malformed(_))));
        let nothing = program.with_extension("nothing");
        assert!(matches!(guest.k.exec.load(&nothing), Err(LoadError::Read { .. })));
    });
}
