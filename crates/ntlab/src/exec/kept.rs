//! What the lab has made of a driver's image, for the next machine of this OS thread that loads it to the same place: the image, relocated and
//! bound, and the jumps at instructions that access registers, which are the same ones each time.

use std::{cell::Cell, collections::BTreeMap, path::Path, rc::Rc};

use super::{
    Exec, Image,
    detour::Detours,
    registers::{MANY, Slot},
};
use crate::memory::{Arena, Ptr};

thread_local! {
    static KEPT: Cell<Option<Kept>> = const { Cell::new(None) };
}

/// An image, and what was made of its code.
#[derive(Debug)]
struct Kept {
    image: Rc<Image>,
    /// Where the kernel's code and variables lay, which it is bound to.
    places: [u64; 3],
    detours: Detours,
    slots: BTreeMap<u64, Slot>,
    /// The lab's code, by address.
    code: Vec<(u64, Vec<u8>)>,
}

impl Exec {
    /// Keeps what was made of the machine's image, if it had one, whose code ran as it is.
    pub(crate) fn keep_code(&self) {
        let images = self.images.borrow();
        let (Some(detours), [image]) = (&self.detours, &**images) else { return };
        let (detours, slots) = (detours.take(), self.registers.take_slots());
        if slots.len() > MANY {
            return;
        }
        let made = detours.code_pages().chain([self.registers.code(&slots)]);
        let code = made.map(|(address, length)| (address, Ptr::new(address).read_bytes(length))).collect();
        KEPT.set(Some(Kept { image: Rc::clone(image), places: self.places(), detours, slots, code }));
    }

    /// The image that was kept, and what was made of it, if it is what loading the file would make.
    pub(super) fn load_kept(&self, path: &Path, file: &[u8]) -> Option<Rc<Image>> {
        let detours = self.detours.as_ref().filter(|_| self.images.borrow().is_empty())?;
        let Kept { image, places, detours: before, slots, code } = KEPT.take()?;
        let is_same = places == self.places() && image.path == path && image.file == file;
        if !is_same || !self.space.is_next(Arena::Images, image.base) {
            return None;
        }
        self.space.take(Arena::Images, image.length);
        for (page, _) in before.code_pages() {
            self.space.take_code_page(page);
        }
        for (address, code) in &code {
            self.space.patch(*address, code);
        }
        detours.replace(before);
        self.registers.put_slots(slots);
        Some(image)
    }

    const fn places(&self) -> [u64; 3] {
        [self.thunks.base(), self.variables.base(), self.registers.base()]
    }
}
