//! mosquitto_pub and mosquitto_sub, Debian's.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use libtest_mimic::Failed;

use crate::harness::broker::Process;

type Test = fn(&Process, &str) -> Result<(), Failed>;

pub(super) fn tests() -> [(&'static str, Test); 4] {
    [
        ("messages_of_each_qos_arrive", each_qos),
        ("a_retained_message_waits", retained),
        ("a_killed_client_leaves_its_will", will),
        ("a_session_is_resumed", resume),
    ]
}

/// What only version 5 has.
pub(super) fn tests_5() -> [(&'static str, Test); 3] {
    [
        ("properties_arrive", properties),
        ("a_question_is_answered", request),
        ("a_shared_message_goes_to_one", shared),
    ]
}

/// A running mosquitto_sub; killed when dropped.
struct Subscriber {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Subscriber {
    /// Starts it and waits until it is subscribed, which its debug output tells.
    fn start(broker: &Process, version: &str, arguments: &[&str]) -> Result<Self, Failed> {
        Self::start_as(broker, version, "> %t %q %r %p", arguments)
    }

    /// The same with another form of its lines.
    fn start_as(
        broker: &Process,
        version: &str,
        form: &str,
        arguments: &[&str],
    ) -> Result<Self, Failed> {
        let mut command = tool("mosquitto_sub", broker, version);
        command.args(["-d", "-F", form, "-W", "20"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let mut subscriber = Self { child, lines: BufReader::new(output) };
        subscriber.wait_for("received SUBACK")?;
        Ok(subscriber)
    }

    fn wait_for(&mut self, text: &str) -> Result<String, Failed> {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line)? == 0 {
                return Err(format!("{text:?} wanted, this came:\n{all}").into());
            }
            if line.contains(text) {
                return Ok(line.trim().to_owned());
            }
            all.push_str(&line);
        }
    }

    /// The next message is this: topic, QoS, RETAIN, payload.
    fn expect(&mut self, wanted: &str) -> Result<(), Failed> {
        let came = self.wait_for("> ")?;
        if came == format!("> {wanted}") {
            Ok(())
        } else {
            Err(format!("{wanted:?}: {came}").into())
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tool(name: &str, broker: &Process, version: &str) -> Command {
    // Into a pipe the tools write by the block; a test reads by the line.
    let mut command = Command::new("stdbuf");
    command.args(["-oL", name]);
    let version = if version == "5" { "mqttv5" } else { "mqttv311" };
    command.args(["-h", "127.0.0.1", "-p", &broker.address.port().to_string(), "-V", version]);
    command
}

fn publish(broker: &Process, version: &str, arguments: &[&str]) -> Result<(), Failed> {
    let output = tool("mosquitto_pub", broker, version).args(arguments).output()?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("mosquitto_pub: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}

fn each_qos(broker: &Process, version: &str) -> Result<(), Failed> {
    let mut subscriber = Subscriber::start(broker, version, &["-t", "tools/#", "-q", "2"])?;
    for qos in ["0", "1", "2"] {
        publish(broker, version, &["-t", "tools/a", "-q", qos, "-m", "hello"])?;
        subscriber.expect(&format!("tools/a {qos} 0 hello"))?;
    }
    Ok(())
}

fn retained(broker: &Process, version: &str) -> Result<(), Failed> {
    publish(broker, version, &["-t", "kept/1", "-q", "1", "-r", "-m", "one"])?;
    publish(broker, version, &["-t", "kept/2", "-q", "1", "-r", "-m", "two"])?;
    publish(broker, version, &["-t", "kept/2", "-q", "1", "-r", "-n"])?;
    let mut subscriber = Subscriber::start(broker, version, &["-t", "kept/+", "-q", "1"])?;
    subscriber.expect("kept/1 1 1 one")?;
    publish(broker, version, &["-t", "kept/3", "-q", "1", "-r", "-m", "three"])?;
    subscriber.expect("kept/3 1 0 three")
}

fn will(broker: &Process, version: &str) -> Result<(), Failed> {
    let mut watcher = Subscriber::start(broker, version, &["-t", "will/#", "-q", "1"])?;
    let arguments = ["-t", "x", "--will-topic", "will/it", "--will-payload", "gone"];
    let victim = Subscriber::start(broker, version, &arguments)?;
    drop(victim);
    watcher.expect("will/it 0 0 gone")
}

fn resume(broker: &Process, version: &str) -> Result<(), Failed> {
    let mut arguments = vec!["-t", "sleep/1", "-q", "1", "-i", "sleeper", "-c"];
    if version == "5" {
        arguments.extend(["-x", "1000"]);
    }
    drop(Subscriber::start(broker, version, &arguments)?);
    publish(broker, version, &["-t", "sleep/1", "-q", "1", "-m", "kept"])?;
    arguments.extend(["-F", "> %t %q %r %p", "-W", "20", "-C", "1"]);
    let output = tool("mosquitto_sub", broker, version).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wanted = "> sleep/1 1 0 kept";
    if said.contains(wanted) { Ok(()) } else { Err(format!("{wanted:?}: {said:?}").into()) }
}

fn properties(broker: &Process, version: &str) -> Result<(), Failed> {
    let form = "> %t %C %R %D %F %E %S %P %p";
    let arguments = ["-t", "tools/#", "-q", "1", "-D", "subscribe", "subscription-identifier", "7"];
    let mut subscriber = Subscriber::start_as(broker, version, form, &arguments)?;
    let mut arguments = vec!["-t", "tools/a", "-q", "1", "-m", "hello"];
    for property in [
        &["content-type", "text"][..],
        &["response-topic", "re/ply"],
        &["correlation-data", "42"],
        &["payload-format-indicator", "1"],
        &["message-expiry-interval", "90000"],
        &["user-property", "k", "v"],
    ] {
        arguments.extend(["-D", "publish"]);
        arguments.extend(property);
    }
    publish(broker, version, &arguments)?;
    let came = subscriber.wait_for("> ")?;
    let is_right =
        came.starts_with("> tools/a text re/ply 42 1 ") && came.ends_with(" 7 k:v hello");
    // A second may have passed on the way.
    if is_right && (came.contains(" 90000 ") || came.contains(" 89999 ")) {
        Ok(())
    } else {
        Err(format!("{came:?}").into())
    }
}

fn request(broker: &Process, version: &str) -> Result<(), Failed> {
    let mut answerer = Subscriber::start_as(broker, version, "> %R %p", &["-t", "ask", "-q", "1"])?;
    let mut asker = tool("mosquitto_rr", broker, version);
    asker.args(["-t", "ask", "-e", "answers/1", "-q", "1", "-m", "what?", "-W", "20"]);
    let asker = asker.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    answerer.expect("answers/1 what?")?;
    publish(broker, version, &["-t", "answers/1", "-q", "1", "-m", "that"])?;
    let output = asker.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if said.trim() == "that" { Ok(()) } else { Err(format!("{said:?}").into()) }
}

fn shared(broker: &Process, version: &str) -> Result<(), Failed> {
    let arguments = ["-t", "$share/g/jobs", "-t", "end", "-q", "1"];
    let mut one = Subscriber::start(broker, version, &arguments)?;
    let mut other = Subscriber::start(broker, version, &arguments)?;
    for number in 0..6 {
        publish(broker, version, &["-t", "jobs", "-q", "1", "-m", &number.to_string()])?;
    }
    let mut jobs = Vec::new();
    for member in [&mut one, &mut other] {
        // Each gets every other one.
        for _ in 0..3 {
            jobs.push(member.wait_for("> jobs")?);
        }
    }
    jobs.sort();
    let wanted: Vec<String> = (0..6).map(|number| format!("> jobs 1 0 {number}")).collect();
    if jobs == wanted { Ok(()) } else { Err(format!("{jobs:?}").into()) }
}
