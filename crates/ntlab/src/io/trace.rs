//! Event tracing: providers that drivers registered, sessions that listen to them, and what was written ("Adding Event Tracing to
//! Kernel-Mode Drivers").

use std::{cell::RefCell, fmt};

use super::{
    interface::Class,
    tracelogging::{self, Field},
};
use crate::{kernel::Kernel, memory::Ptr, tracking::Tracked};

/// `EVENT_CONTROL_CODE_ENABLE_PROVIDER`.
const ENABLE: u64 = 1;
/// In `EVENT_DATA_DESCRIPTOR.Type`: `TraceLogging` metadata of the event, and of the provider.
const EVENT_METADATA: u8 = 1;
const PROVIDER_METADATA: u8 = 2;

/// What a session wants from a provider.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    /// The provider.
    pub provider: Class,
    /// The highest level, 5 is verbose.
    pub level: u8,
    /// Events with any of these keywords, or with none.
    pub keywords: u64,
}

/// An event that a session received.
#[derive(Clone, PartialEq, Debug)]
pub struct TraceEvent {
    /// The provider.
    pub provider: Class,
    /// The provider's name, where it carries `TraceLogging` metadata.
    pub provider_name: String,
    /// Virtual nanoseconds since the machine started.
    pub time: u64,
    /// Its id in a manifest; 0 for `TraceLogging`.
    pub id: u16,
    /// Its level.
    pub level: u8,
    /// Its keywords.
    pub keywords: u64,
    /// Its name, where it carries `TraceLogging` metadata.
    pub name: String,
    /// Its fields as its `TraceLogging` metadata describe them, or why they are not known.
    pub fields: Result<Vec<Field>, String>,
    /// Its fields, as bytes one after the other.
    pub payload: Vec<u8>,
}

impl TraceEvent {
    fn new(provider: Class, time: u64, descriptor: Descriptor, parts: Parts) -> Self {
        let Descriptor { id, level, keywords, .. } = descriptor;
        let Parts { provider: about_provider, event: about_event, values } = parts;
        let metadata = about_event.as_deref().ok_or_else(|| "it has no TraceLogging metadata".to_owned());
        let fields = metadata.and_then(|metadata| tracelogging::fields(metadata, &values));
        Self {
            provider,
            provider_name: about_provider.as_deref().map(tracelogging::provider_name).unwrap_or_default(),
            time,
            id,
            level,
            keywords,
            name: about_event.as_deref().map(tracelogging::event_name).unwrap_or_default(),
            fields,
            payload: values,
        }
    }
}

impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { provider_name, time, level, name, fields, payload, .. } = self;
        write!(f, "{}.{:03} us level {level} {provider_name}/{name}", time / 1000, time % 1000)?;
        match fields {
            Ok(fields) => fields.iter().try_for_each(|field| write!(f, " {field}")),
            Err(why) => write!(f, ": {} bytes that are not decoded: {why}", payload.len()),
        }
    }
}

/// What an event is made of.
#[derive(Debug, Default)]
struct Parts {
    provider: Option<Vec<u8>>,
    event: Option<Vec<u8>>,
    values: Vec<u8>,
}

#[derive(Debug)]
struct Provider {
    class: Class,
    callback: u64,
    context: u64,
}

/// An event's descriptor, `EVENT_DESCRIPTOR`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Descriptor {
    id: u16,
    version: u8,
    channel: u8,
    level: u8,
    opcode: u8,
    task: u16,
    keywords: u64,
}

impl Descriptor {
    /// Its level and keywords, by which sessions choose.
    #[must_use]
    pub const fn filter(&self) -> (u8, u64) {
        (self.level, self.keywords)
    }
}

/// A piece of an event's data, `EVENT_DATA_DESCRIPTOR`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Data {
    pointer: u64,
    size: u32,
    kind: u8,
    reserved: [u8; 3],
}

/// Providers, sessions and events.
#[derive(Debug, Default)]
pub struct Trace {
    providers: RefCell<Vec<Option<Provider>>>,
    sessions: RefCell<Vec<Session>>,
    events: RefCell<Vec<TraceEvent>>,
}

impl Trace {
    fn class_of(&self, handle: u64) -> Option<Class> {
        let providers = self.providers.borrow();
        providers.get(index(handle)?)?.as_ref().map(|provider| provider.class)
    }

    /// Whether a session wants such an event of the provider; `None` if that is not registered.
    pub(crate) fn wants(&self, handle: u64, level: u8, keywords: u64) -> Option<bool> {
        let class = self.class_of(handle)?;
        let wanted = |session: &Session| {
            session.provider == class && level <= session.level && (keywords == 0 || keywords & session.keywords != 0)
        };
        Some(self.sessions.borrow().iter().any(wanted))
    }

    /// Takes the events that sessions received so far.
    pub fn take_events(&self) -> Vec<TraceEvent> {
        self.events.take()
    }
}

/// The provider behind a registration handle.
fn index(handle: u64) -> Option<usize> {
    usize::try_from(handle).ok()?.checked_sub(1)
}

/// Registers a provider (`EtwRegister`); if a session listens to it, its callback is called before this returns.
pub fn register(k: &Kernel, class: Class, callback: u64, context: u64) -> u64 {
    let mut providers = k.io.trace.providers.borrow_mut();
    providers.push(Some(Provider { class, callback, context }));
    let handle = providers.len() as u64;
    drop(providers);
    k.tracking.made(k, Tracked::EtwProvider, handle, || class.to_string());
    let sessions: Vec<Session> = k.io.trace.sessions.borrow().clone();
    for session in sessions {
        tell(k, handle, &session);
    }
    handle
}

/// Unregisters a provider (`EtwUnregister`); false if it is not registered.
pub fn unregister(k: &Kernel, handle: u64) -> bool {
    let Some(index) = index(handle) else { return false };
    k.tracking.gone(Tracked::EtwProvider, handle);
    k.io.trace.providers.borrow_mut().get_mut(index).and_then(Option::take).is_some()
}

/// Starts a session. Providers that are registered already are told at once, the others when they register.
pub fn start(k: &Kernel, session: Session) {
    k.io.trace.sessions.borrow_mut().push(session);
    let count = k.io.trace.providers.borrow().len() as u64;
    for handle in 1..=count {
        tell(k, handle, &session);
    }
}

/// Calls a provider's callback for a session that wants it ("ETWENABLECALLBACK").
fn tell(k: &Kernel, handle: u64, session: &Session) {
    let providers = k.io.trace.providers.borrow();
    let provider = index(handle).and_then(|index| providers.get(index)?.as_ref());
    let called = provider.filter(|provider| provider.class == session.provider && provider.callback != 0);
    let Some((callback, context)) = called.map(|provider| (provider.callback, provider.context)) else { return };
    drop(providers);
    let source = k.memory.allocate_object::<[u64; 2]>();
    let arguments = [source.address(), ENABLE, session.level.into(), session.keywords, 0, 0, context];
    k.call("ETW enable callback", callback, &arguments);
    k.memory.free_object(source);
}

/// Writes an event (`EtwWriteTransfer`); false if the provider is not registered.
pub fn write(k: &Kernel, handle: u64, descriptor: Ptr<Descriptor>, count: u32, data: Ptr<Data>) -> bool {
    let trace = &k.io.trace;
    let Some(provider) = trace.class_of(handle) else { return false };
    let descriptor = descriptor.read();
    let (level, keywords) = descriptor.filter();
    if trace.wants(handle, level, keywords) != Some(true) {
        return true;
    }
    let mut parts = Parts::default();
    for piece in (0..count as usize).map(|index| data.offset(index).read()) {
        let bytes = Ptr::<u8>::new(piece.pointer).read_bytes(piece.size as usize);
        match piece.kind {
            EVENT_METADATA => parts.event = Some(bytes),
            PROVIDER_METADATA => parts.provider = Some(bytes),
            _ => parts.values.extend(bytes),
        }
    }
    trace.events.borrow_mut().push(TraceEvent::new(provider, k.now(), descriptor, parts));
    true
}
