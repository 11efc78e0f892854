//! `watch --top`: processors and rates on the whole screen.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, IsTerminal},
    time::Duration,
};

use hotadd_abi::{ProcessorStatistics, Status};
use ratatui::{
    Frame,
    crossterm::event::{self, Event as Input, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Cell, Paragraph, Row, Table},
};
use recording::{Event, words as event_words};

use crate::{
    client::{Client, Journal},
    device::{Access, Host, Place},
    failure::Failure,
    follow::Follower,
    words,
};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(250);
/// Events that are kept to be shown.
const EVENTS: usize = 200;
/// Characters of the longest bar.
const BAR: u64 = 20;

/// Shows the screen until somebody presses q.
pub fn run(host: &dyn Host, place: &Place, client: &mut Client<'_>, follower: &mut Follower) -> Result<(), Failure> {
    if !io::stdout().is_terminal() {
        return Err(Failure::Usage("--top needs a terminal; without it, events are printed one a line".into()));
    }
    // Another handle: the first one waits for events.
    let mut asking = Client::open(host, place, Access::Nothing)?;
    let mut terminal = ratatui::try_init()?;
    let mut screen = Screen::new(place);
    let ended = loop {
        if let Err(failure) = screen.look(&mut asking, client, follower) {
            break Err(failure);
        }
        screen.is_over = host.is_over();
        if let Err(error) = terminal.draw(|frame| screen.draw(frame)) {
            break Err(error.into());
        }
        match wants_to_leave() {
            Ok(false) => host.pause(INTERVAL),
            Ok(true) => break Ok(()),
            Err(error) => break Err(error.into()),
        }
    };
    ratatui::try_restore()?;
    ended
}

/// Whether somebody pressed q, Esc or Ctrl-C.
fn wants_to_leave() -> io::Result<bool> {
    while event::poll(Duration::ZERO)? {
        if let Input::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            let is_interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
            if is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// What is on the screen.
struct Screen {
    instance: String,
    status: Status,
    processors: Vec<ProcessorStatistics>,
    /// The look before.
    before: BTreeMap<u32, ProcessorStatistics>,
    /// The driver's time between the two, in 100 ns units.
    elapsed: u64,
    events: VecDeque<String>,
    missed: u64,
    is_over: bool,
}

impl Screen {
    fn new(place: &Place) -> Self {
        Self {
            instance: place.instance.clone(),
            status: Status::default(),
            processors: Vec::new(),
            before: BTreeMap::new(),
            elapsed: 0,
            events: VecDeque::new(),
            missed: 0,
            is_over: false,
        }
    }

    /// Asks the driver what has changed.
    fn look(
        &mut self,
        asking: &mut Client<'_>,
        client: &mut Client<'_>,
        follower: &mut Follower,
    ) -> Result<(), Failure> {
        self.update(asking.status()?, asking.processors()?);
        while let Some(journal) = follower.next(client.device(), Duration::ZERO)? {
            self.add(&journal);
        }
        Ok(())
    }

    fn update(&mut self, status: Status, processors: Vec<ProcessorStatistics>) {
        self.elapsed = if self.status.now == 0 { 0 } else { status.now.saturating_sub(self.status.now) };
        self.status = status;
        self.before = self.processors.drain(..).map(|row| (row.index, row)).collect();
        self.processors = processors;
    }

    fn add(&mut self, journal: &Journal) {
        self.missed += journal.missed;
        self.events.extend(journal.events.iter().map(|event| event_words::line(&Event::from(event))));
        self.events.drain(..self.events.len().saturating_sub(EVENTS));
    }

    /// How often something happened in a second, since the look before.
    fn rate(&self, row: &ProcessorStatistics, figure: fn(&ProcessorStatistics) -> u64) -> u64 {
        let Some(before) = self.before.get(&row.index) else { return 0 };
        let (since, elapsed) = (figure(row).saturating_sub(figure(before)), u128::from(self.elapsed.max(1)));
        u64::try_from(u128::from(since) * 10_000_000 / elapsed).unwrap_or(u64::MAX)
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let rows = u16::try_from(self.processors.len()).unwrap_or(u16::MAX).saturating_add(3);
        let parts = [Constraint::Length(6), Constraint::Max(rows), Constraint::Min(3), Constraint::Length(1)];
        let [head, table, events, foot] = Layout::vertical(parts).areas(frame.area());
        frame.render_widget(self.head(), head);
        frame.render_widget(self.table(), table);
        frame.render_widget(self.events(events), events);
        let over = if self.is_over { "  nothing more will happen" } else { "" };
        frame.render_widget(Line::from(vec![" q ".reversed(), " leave".into(), over.yellow()]), foot);
    }

    fn head(&self) -> Paragraph<'_> {
        let status = &self.status;
        let gate = words::gate(status);
        let gate = if status.gate == 0 { gate.green() } else { gate.yellow() };
        let in_flight = status.accepted.saturating_sub(status.completed + status.cancelled + status.failed);
        let lines = vec![
            Line::from(vec![
                format!(
                    "{}, {}, engine {}; gate ",
                    words::pnp_state(status),
                    words::interrupt(status),
                    words::engine(status)
                )
                .into(),
                gate,
                format!(", {} held", status.held).into(),
            ]),
            Line::from(format!(
                "processors: {} steered to, {} active, at most {}; rebalances: {}, the last held for {}",
                status.processors_steered,
                status.processors_active,
                status.processors_maximum,
                status.rebalances,
                words::duration(status.last_hold_duration)
            )),
            Line::from(format!(
                "requests: {in_flight} on their way, {} completed, {} cancelled, {} failed, {} waited",
                status.completed, status.cancelled, status.failed, status.waited
            )),
            Line::from(format!(
                "pool: {}, {} when loaded; memory: {}",
                words::bytes(status.pool_bytes),
                words::bytes(status.pool_bytes_at_load),
                words::bytes(status.memory_bytes)
            )),
        ];
        Paragraph::new(lines).block(Block::bordered().title(format!(" {} ", self.instance).bold()))
    }

    fn table(&self) -> Table<'_> {
        let rates: Vec<_> = self.processors.iter().map(|row| (row, self.rate(row, |row| row.requests))).collect();
        let most = rates.iter().map(|(_, rate)| *rate).max().unwrap_or(0).max(1);
        let rows = rates.into_iter().map(|(row, requests)| {
            let style = if row.steered == 0 { Style::new().yellow() } else { Style::new() };
            let interrupts = self.rate(row, |row| row.interrupts);
            let dpcs = self.rate(row, |row| row.dpcs);
            let figures = [row.index.into(), row.node.into(), interrupts, dpcs, requests, row.requests];
            let cells = figures.map(|figure: u64| Cell::new(Line::from(figure.to_string()).right_aligned()));
            let place = Cell::new(format!("{}:{}", row.group, row.number));
            let bar = Cell::new(Span::styled(bar(requests, most), Color::Green));
            let [index, node, rest @ ..] = cells;
            Row::new([index, place, node].into_iter().chain(rest).chain([bar])).style(style)
        });
        let header = ["cpu", "group:nr", "node", "interrupts/s", "DPCs/s", "requests/s", "requests", ""];
        let header = Row::new(header.map(|text| Line::from(text).right_aligned())).bold();
        let widths = [4, 9, 5, 13, 9, 11, 10, 20].map(Constraint::Length);
        Table::new(rows, widths).header(header).block(Block::bordered().title(" processors "))
    }

    /// The last events that fit.
    fn events(&self, area: Rect) -> Paragraph<'_> {
        let room = usize::from(area.height.saturating_sub(2));
        let lines = self.events.iter().skip(self.events.len().saturating_sub(room));
        let title = match self.missed {
            0 => " journal ".to_owned(),
            missed => format!(" journal: {missed} events were missed "),
        };
        Paragraph::new(lines.map(|line| Line::from(line.as_str())).collect::<Vec<_>>())
            .block(Block::bordered().title(title))
    }
}

fn bar(value: u64, most: u64) -> String {
    let length = u128::from(value) * u128::from(BAR) / u128::from(most);
    "█".repeat(usize::try_from(length).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use hotadd_abi::{Event, EventKind, InterruptMode};
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    fn processor(index: u32, requests: u64, steered: u8) -> ProcessorStatistics {
        let number = u8::try_from(index).expect("a small number");
        ProcessorStatistics { index, number, requests, steered, ..ProcessorStatistics::default() }
    }

    fn status(now: u64) -> Status {
        Status {
            now,
            accepted: 90,
            completed: 70,
            engine: 1,
            pnp_state: 1,
            interrupt_mode: InterruptMode::Message.code(),
            interrupt_messages: 1,
            interrupt_affinity: 3,
            ..Status::default()
        }
    }

    /// A screen that looked twice, one second apart.
    fn screen() -> Screen {
        let place = Place { index: 0, instance: r"ROOT\HOTADD\0000".into(), link: String::new() };
        let mut screen = Screen::new(&place);
        screen.update(status(5_000_000), vec![processor(0, 10, 1)]);
        screen.update(status(15_000_000), vec![processor(0, 110, 1), processor(1, 40, 0)]);
        screen
    }

    fn drawn(screen: &Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| screen.draw(frame)).expect("it is drawn");
        let cells = terminal.backend().buffer().content();
        cells.chunks(width.into()).map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect()).collect()
    }

    #[test]
    fn a_row_tells_what_its_processor_did_in_the_last_second() {
        let screen = drawn(&screen(), 100, 24);
        let row = screen.iter().find(|row| row.contains(" 0:0 ")).expect("processor 0 has a row");
        let figures: Vec<&str> = row.split_whitespace().filter(|word| word.parse::<u64>().is_ok()).collect();
        assert_eq!(figures, ["0", "0", "0", "0", "100", "110"], "{row}");
        assert!(row.contains(&"█".repeat(20)), "it did most: {row}");
        assert!(screen.iter().any(|row| row.contains(" 0:1 ") && !row.contains('█')), "a new one has no rate yet");
    }

    #[test]
    fn the_head_tells_device_gate_and_requests_on_their_way() {
        let text = drawn(&screen(), 100, 24).join("\n");
        for part in
            [r"ROOT\HOTADD\0000", "engine edu", "gate running", "20 on their way", "1 message, group 0, affinity 0x3"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn the_last_events_are_shown_and_missed_ones_told() {
        let mut screen = screen();
        let event = |sequence| Event {
            sequence,
            kind: EventKind::ProcessorArrival.code(),
            time: sequence * 10_000,
            ..Event::default()
        };
        let events = (0..300).map(event).collect();
        screen.add(&Journal { next: 300, missed: 7, events });
        let text = drawn(&screen, 100, 24).join("\n");
        assert!(
            text.contains("299.000 ms") && !text.contains("199.000 ms") && text.contains("7 events were missed"),
            "{text}"
        );
    }

    #[test]
    fn a_small_terminal_is_no_reason_to_fail() {
        for (width, height) in [(1, 1), (20, 5), (300, 100)] {
            drawn(&screen(), width, height);
        }
    }
}
