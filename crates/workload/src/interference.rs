//! What may happen between any two kernel calls of the driver, at any time of its [`life`]: its device is pulled out, a user closes his
//! handle, cancels his requests, or ends with them under way.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    path::Path,
    rc::Rc,
};

use ntlab::{
    config::Config,
    faults::{Plan, Unplugged},
    machine::System,
    user::{self, Handle, Pending, Request},
};
use serde::{Deserialize, Serialize};

use crate::{client, life};

/// So many kernel calls before the interference, at most, its user opens his handle: less than three requests make, so that some are met
/// at their beginning, some at their end.
const LEAD: u64 = 160;
/// Where the requests transfer to and from: behind what others use.
const OFFSET: i64 = 4040;
const LENGTH: usize = 32;
/// Virtual nanoseconds after which a user looks whether the life is over.
const PAUSE: u64 = 20_000_000;
/// Virtual nanoseconds in which a request must have ended.
const PATIENCE: u64 = 120_000_000_000;

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum What {
    /// The device with hardware is pulled out.
    Unplug,
    /// A handle is closed by another thread than the one that uses it.
    Close,
    /// The requests of a handle are cancelled by another thread than the one that sends them.
    Cancel,
    /// A thread ends: its requests are cancelled, one after the other, and waited for.
    EndThread,
}

impl What {
    /// Each.
    pub const ALL: [Self; 4] = [Self::Unplug, Self::Close, Self::Cancel, Self::EndThread];
}

/// Something that happens once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Interference {
    /// What happens.
    pub what: What,
    /// At which kernel call of the driver's life, from 1.
    pub call: u64,
}

impl Interference {
    /// Every interference has a number, from 0.
    #[must_use]
    pub fn numbered(number: u64) -> Self {
        let kinds = What::ALL.len() as u64;
        let what = What::ALL[usize::try_from(number % kinds).unwrap_or(0)];
        Self { what, call: number / kinds + 1 }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u64 {
        let kind = What::ALL.iter().position(|what| *what == self.what).unwrap_or(0);
        (self.call - 1) * What::ALL.len() as u64 + kind as u64
    }

    /// The machine for [`Interference::play`].
    #[must_use]
    pub fn machine(self, config: Config) -> Config {
        if self.what != What::Unplug {
            return config;
        }
        let unplugged = Some(Unplugged { device: life::EDU, call: self.call });
        config.with_faults(Plan { unplugged, ..Plan::default() })
    }

    /// Lives the life of the driver in the file `sys` with it. How many requests were under way, at most.
    ///
    /// # Errors
    ///
    /// Requests that did not end, or not as they may.
    ///
    /// # Panics
    ///
    /// Where a promise of the life is broken.
    pub fn play(self, system: &System, sys: &Path) -> Result<BTreeMap<String, u64>, String> {
        let visits = Rc::new(Visits::default());
        if self.what != What::Unplug {
            for number in 0..2 {
                visits.open.update(|open| open + 1);
                let visits = Rc::clone(&visits);
                system.spawn("visitor", move |system| {
                    self.visit(system, number, &visits);
                    visits.open.update(|open| open - 1);
                });
            }
        }
        life::live_with(system, sys, || visits.end(system));
        let broken = visits.broken.take();
        if broken.is_empty() {
            Ok([("requests under way".to_owned(), visits.under_way.get())].into())
        } else {
            Err(broken.join("; "))
        }
    }

    /// Uses device number `number` when the time has come.
    fn visit(self, system: &System, number: usize, visits: &Rc<Visits>) {
        if !visits.reach(system, self.call.saturating_sub(self.call % LEAD)) {
            return;
        }
        let Ok(device) = client::open(system, number) else { return };
        let device = Rc::new(device);
        let acted = Rc::new(Cell::new(self.what == What::EndThread));
        if !acted.get() {
            let (device, acted, visits) = (Rc::clone(&device), Rc::clone(&acted), Rc::clone(visits));
            system.spawn("other thread", move |system| {
                if visits.reach(system, self.call) {
                    self.act(&device);
                }
                acted.set(true);
            });
        }
        let pending: Vec<_> = requests(&device).into_iter().map(|request| device.submit(request)).collect();
        if self.what == What::EndThread {
            let _reached = visits.reach(system, self.call);
            visits.count(&pending);
            pending.iter().for_each(cancel);
        } else {
            while !acted.get() {
                visits.count(&pending);
                system.sleep(1_000);
            }
        }
        // What waits for the journal, and was sent later, waits no longer.
        device.close_for_all();
        for pending in pending {
            visits.judge(self.what, pending);
        }
    }

    fn act(self, device: &Handle<'_>) {
        match self.what {
            What::Close => device.close_for_all(),
            What::Cancel => device.cancel_all(),
            What::Unplug | What::EndThread => {}
        }
    }
}

fn requests(device: &Handle<'_>) -> Vec<Request> {
    let mut requests = vec![
        Request::Write { offset: OFFSET, data: vec![3; LENGTH] },
        client::factorial_request(9),
        Request::Read { offset: OFFSET, length: LENGTH },
    ];
    match client::status(device).map(|status| status.journal_next) {
        // A driver without a journal: one that has a journal has noted that it was loaded.
        Ok(0) => {}
        Ok(next) => requests.push(client::journal(next).0),
        Err(_) => requests.push(client::journal(0).0),
    }
    requests
}

fn cancel(pending: &Pending<'_>) {
    pending.cancel();
}

/// The users that an interference concerns.
#[derive(Default)]
struct Visits {
    /// Visitors that have not gone.
    open: Cell<u32>,
    /// The life is over.
    over: Cell<bool>,
    /// The most requests that were under way on a device.
    under_way: Cell<u64>,
    broken: RefCell<Vec<String>>,
}

impl Visits {
    /// Waits for a kernel call, true, or for the end of the life, false.
    fn reach(&self, system: &System, call: u64) -> bool {
        while !self.over.get() {
            if system.wait_for_call(call, PAUSE) {
                return true;
            }
        }
        false
    }

    fn count(&self, pending: &[Pending<'_>]) {
        let under_way = pending.iter().filter(|pending| !pending.is_done()).count();
        self.under_way.update(|most| most.max(under_way as u64));
    }

    /// Waits until every visitor has gone.
    fn end(&self, system: &System) {
        self.over.set(true);
        while self.open.get() > 0 {
            system.sleep(PAUSE);
        }
    }

    fn judge(&self, what: What, pending: Pending<'_>) {
        let broken = match pending.wait_for(PATIENCE) {
            Err(_) => "a request did not end".to_owned(),
            Ok(end) if may_end_with(what, end.status) => return,
            Ok(end) => format!("a request ended with {}", end.status),
        };
        self.broken.borrow_mut().push(broken);
    }
}

fn may_end_with(what: What, status: user::Status) -> bool {
    /// Of a handle that is closed.
    const INVALID_PARAMETER: user::Status = life::error(0xC000_000D);
    const CANCELLED: user::Status = life::error(0xC000_0120);
    let closed = what == What::Close && status == INVALID_PARAMETER;
    closed || [user::Status::SUCCESS, CANCELLED].contains(&status) || life::EXPECTED.contains(&status)
}
