//! A container without an engine: the steps of an image, and its command as process 1 of its own file system, user and processes.
//!
//! The base image is what this machine has: an overlay over its root, so that nothing of it is changed. Takes root.

use std::process::{Child, Command, Output, Stdio};

use super::{Temp, finish, library, send_signal, until};

/// The instructions of a Dockerfile's last stage, in order: name and the rest, with lines that were continued put together.
pub fn last_stage(dockerfile: &str) -> Vec<(String, String)> {
    let lines =
        dockerfile.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let instructions = lines.lines().filter(|line| !line.trim().is_empty()).map(|line| {
        let (name, rest) = line.split_once(' ').unwrap_or_else(|| panic!("an instruction: {line}"));
        (name.to_string(), rest.split_whitespace().collect::<Vec<_>>().join(" "))
    });
    let all: Vec<_> = instructions.collect();
    let from = all.iter().rposition(|(name, _)| name == "FROM").expect("an image to begin with");
    all[from..].to_vec()
}

/// A command as Docker has it, in JSON.
pub fn command(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {json}"))
}

/// A container that runs.
pub struct Container {
    /// unshare(1), which ends as the container does, and takes it along when it is killed.
    process: Child,
    user: String,
    _folder: Temp,
}

impl Container {
    /// Whether there can be any here.
    pub fn are_possible() -> bool {
        let tried = "mount -t tmpfs none /mnt && mkdir /mnt/u /mnt/w /mnt/r &&
            mount -t overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w none /mnt/r && chroot /mnt/r true";
        let tried = Command::new("unshare").args(["--mount", "--pid", "--fork", "sh", "-c", tried]).output();
        // Somebody else may do so in a namespace of users, but has no other user there.
        std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
            && tried.is_ok_and(|tried| tried.status.success())
    }

    /// Takes the steps of an image and then runs a command in it, with variables beside those of the image.
    pub fn start(image: &[(String, String)], run: &[String], variables: &[(&str, &str)]) -> Container {
        let folder = Temp::new();
        let mut variables: Vec<String> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (mut steps, mut user, mut place) = (String::new(), "root", "/");
        for (name, rest) in image {
            match (name.as_str(), rest.as_str()) {
                ("RUN", script) => steps += &format!("chroot root bash -ec {}\n", quoted(&format!("{APT}{script}"))),
                ("COPY", files) => steps += &copied(files),
                ("ENV", variable) => variables.push(variable.to_string()),
                ("USER", name) => user = name,
                ("WORKDIR", folder) => place = folder,
                ("FROM" | "VOLUME" | "EXPOSE" | "STOPSIGNAL" | "HEALTHCHECK" | "CMD", _) => {}
                other => panic!("nothing is done here with {other:?}"),
            }
        }
        let words: Vec<String> = variables.iter().chain(run).map(|word| quoted(word)).collect();
        // All of it by exec, so that the command is process 1, as it is in a container.
        let last = format!(
            "exec chroot root setpriv --reuid {user} --regid {user} --clear-groups --no-new-privs \
             env -i -C {place} PATH=\"$PATH\" {}\n",
            words.join(" ")
        );
        let script = format!("set -e\ncd '{}'\n{OVERLAY}{steps}{last}", folder.as_ref().display());
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--pid", "--fork", "--kill-child", "bash", "-c", &script]);
        let process = unshare.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("running unshare(1)");
        Container { process, user: user.to_string(), _folder: folder }
    }

    /// Process 1, by its number outside.
    pub fn pid(&self) -> u32 {
        let of = self.process.id();
        until("there is a process 1", || {
            let status = std::fs::read_to_string(format!("/proc/{of}/status")).expect("the status of unshare(1)");
            assert!(!status.contains("State:\tZ"), "the container has ended; what it said stands above");
            let children = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
            children.trim().parse::<u32>().map_err(|_| format!("{children:?}"))
        })
    }

    /// Runs a command inside, as the user of the image.
    pub fn run(&self, command: &[String]) -> Output {
        let user = &self.user;
        let mut chroot = Command::new("chroot");
        chroot.arg(format!("/proc/{}/root", self.pid())).args(["setpriv", "--reuid", user, "--regid", user]);
        chroot.arg("--clear-groups").args(command).output().expect("running chroot(8)")
    }

    /// Sends a signal to process 1, and gives the code that the container ends with.
    pub fn stop(mut self, signal: &str) -> Option<i32> {
        send_signal(self.pid(), signal);
        finish(&mut self.process).code()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// This machine's root with room of its own above it. In a namespace of mounts, which ends with its processes.
const OVERLAY: &str = "mount -t tmpfs none . && cd \"$PWD\" && mkdir up work root
    mount -t overlay -o lowerdir=/,upperdir=$PWD/up,workdir=$PWD/work none root
    mount --rbind /dev root/dev && mount -t proc proc root/proc\n";

/// What is to be installed is looked up, and not installed: it is a matter of the network.
const APT: &str = "apt-get() { case $1 in update) ;; *) command apt-get --simulate \"$@\" ;; esac; }\n";

/// `--from=build /src/target/release/NAME FOLDER/`, with the library of the tests.
fn copied(files: &str) -> String {
    let words: Vec<&str> = files.split(' ').collect();
    let ["--from=build", built, folder] = words[..] else { panic!("nothing is done here with COPY {files}") };
    let name = built.strip_prefix("/src/target/release/").expect("what cargo builds");
    assert!(folder.ends_with('/'), "{folder} is a folder");
    format!("cp '{}' 'root{folder}{name}'\n", library().display())
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
