//! QEMU's monitor, for steps of a script that change the machine from outside: a disk that grows, a plug that is pulled.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::failure::{Doing, Result, failed};

/// What the monitor prints when it waits for a command.
const PROMPT: &str = "(qemu) ";

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The monitor of one machine.
#[derive(Debug)]
pub(crate) struct Monitor {
    socket: PathBuf,
    stream: Option<UnixStream>,
}

impl Monitor {
    /// Gives the machine that `command` starts a monitor.
    pub(crate) fn attach(command: &mut Command) -> Self {
        // A socket's path must be short. Several machines may run at once.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("portunus-monitor-{}-{number}", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&socket);
        command.args(["-monitor", &format!("unix:{},server=on,wait=off", socket.display())]);
        Self { socket, stream: None }
    }

    /// Has a command done.
    pub(crate) fn run(&mut self, command: &str) -> Result<()> {
        let doing = || format!("the monitor's command {command:?}");
        if self.stream.is_none() {
            let stream = UnixStream::connect(&self.socket).doing(doing())?;
            stream.set_read_timeout(Some(PATIENCE)).doing(doing())?;
            self.stream = Some(stream);
            self.reply().doing(doing())?;
        }
        if let Some(stream) = &mut self.stream {
            stream.write_all(format!("{command}\n").as_bytes()).doing(doing())?;
        }
        match complaint(&self.reply().doing(doing())?) {
            None => Ok(()),
            Some(complaint) => failed(format!("{}: {complaint}", doing())),
        }
    }

    /// What it says up to its next prompt.
    fn reply(&mut self) -> std::io::Result<String> {
        let mut said = Vec::new();
        while let Some(stream) = self.stream.as_mut().filter(|_| !said.ends_with(PROMPT.as_bytes())) {
            let mut buffer = [0; 512];
            match stream.read(&mut buffer)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => said.extend(&buffer[..count]),
            }
        }
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // QEMU leaves it behind if it is killed.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// What the monitor does not like of a command. A command that it does says nothing but its echo.
fn complaint(reply: &str) -> Option<&str> {
    let mut lines = reply.lines().map(str::trim);
    lines.find(|line| line.starts_with("Error:") || line.starts_with("unknown command"))
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn a_refused_command_is_told_from_one_that_was_done() {
        for (reply, wanted) in [
            ("block_resize disk0 96M\r\n(qemu) ", None),
            ("x\r\nunknown command: 'x'\r\n(qemu) ", Some("unknown command: 'x'")),
            (
                "block_resize d 1M\r\nError: Device 'd' not found\r\n(qemu) ",
                Some("Error: Device 'd' not found"),
            ),
        ] {
            assert_eq!(complaint(reply), wanted);
        }
    }
}
