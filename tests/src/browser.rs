//! A browser without a window, told what to do over a pipe (Chrome `DevTools` Protocol).

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD as STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long the browser may take for an answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// A browser with one page.
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    session: Option<String>,
    last: u64,
    complaints: Vec<String>,
    requested: Vec<String>,
    /// Goes with the browser.
    _profile: TempDir,
}

impl Browser {
    /// Opens a file and waits until it is loaded.
    ///
    /// # Panics
    ///
    /// Where there is no browser, or it does not answer.
    #[must_use]
    pub fn open(page: &Path) -> Self {
        let profile = tempfile::tempdir().expect("there is room for the browser's profile");
        let program = xtask::setup::browser().expect("there is no browser: cargo xtask setup installs chromium");
        // The protocol wants its pipes at 3 and 4.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#])
            .arg(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"])
            .args(["--no-first-run", "--disable-extensions", "--disable-background-networking"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the browser starts");
        let to = child.stdin.take().expect("there is a pipe to it");
        let answers = BufReader::new(child.stdout.take().expect("there is a pipe from it"));
        let (sender, from) = mpsc::channel();
        thread::spawn(move || {
            for message in answers.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("the browser speaks JSON");
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let (complaints, requested) = (Vec::new(), Vec::new());
        let mut browser = Self { child, to, from, session: None, last: 0, complaints, requested, _profile: profile };
        browser.load(page);
        browser
    }

    fn load(&mut self, page: &Path) {
        let target = self.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        self.session = self.call("Target.attachToTarget", &attach)["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(&format!("{domain}.enable"), &json!({}));
        }
        self.size(1440, 1700);
        self.call("Page.navigate", &json!({"url": format!("file://{}", page.display())}));
        while self.evaluate("document.readyState + document.documentElement?.dataset.ready") != "completeyes" {
            assert_eq!(self.complaints, Vec::<String>::new(), "the page does not get ready");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Gives the page a size, in pixels.
    pub fn size(&mut self, width: u32, height: u32) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// Has the page shown to someone who prefers dark pages, or light ones.
    ///
    /// # Panics
    ///
    /// Where the page shows no frame.
    pub fn prefer(&mut self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", &features);
        // The page is told and draws with the next frame.
        let frames = "new Promise(shown => requestAnimationFrame(() => requestAnimationFrame(() => shown(true))))";
        assert_eq!(self.evaluate(frames), true, "the browser shows frames");
    }

    /// Turns the mouse wheel over a place.
    pub fn wheel(&mut self, x: f64, y: f64, delta: f64) {
        let wheel = json!({"type": "mouseWheel", "x": x, "y": y, "deltaX": 0, "deltaY": delta});
        self.call("Input.dispatchMouseEvent", &wheel);
    }

    /// The value of an expression in the page.
    ///
    /// # Panics
    ///
    /// Where the expression throws.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let answer = self
            .call("Runtime.evaluate", &json!({"expression": expression, "returnByValue": true, "awaitPromise": true}));
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Writes what is to be seen to a file, as PNG.
    ///
    /// # Panics
    ///
    /// Where it cannot be written.
    pub fn picture(&mut self, path: &Path) {
        let picture = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        let text = picture["data"].as_str().expect("there is a picture");
        let bytes = STANDARD.decode(text).expect("it is base64");
        fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// What the page complained of: exceptions, and errors and warnings on its console.
    #[must_use]
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// The addresses that the page asked for.
    #[must_use]
    pub fn requested(&self) -> &[String] {
        &self.requested
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.last += 1;
        let id = self.last;
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("the browser listens");
        loop {
            let answer = self.from.recv_timeout(PATIENCE).unwrap_or_else(|why| panic!("{method}: no answer: {why}"));
            if answer["id"] == id {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.complaints.push(parameters["exceptionDetails"].to_string()),
            Some("Runtime.consoleAPICalled") if parameters["type"] != "log" => {
                self.complaints.push(parameters["args"].to_string());
            }
            Some("Log.entryAdded") => self.complaints.push(parameters["entry"]["text"].to_string()),
            Some("Network.requestWillBeSent") => {
                self.requested.extend(parameters["request"]["url"].as_str().map(str::to_owned));
            }
            _ => {}
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself; a test that fails says so in its own words.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
