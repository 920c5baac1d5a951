//! The DaemonSet of `configs/kubernetes/`: its manifests as kubectl reads them, the rights of its
//! account, and its container, run by Podman and runc with the settings of the manifest.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use spillway_agent::{
    config::{self, Mode},
    net::secret::SecretSource,
};
use spillway_tests::{
    Scratch, Servers, apart, http_get, is_root,
    manifests::{Manifests, strings},
    metric, skip, wait_for,
};

use crate::cordon::knows_every_field;

/// Directories with the agent, each with the mode of its configuration.
const DIRECTORIES: [(&str, Mode); 3] =
    [("agent", Mode::Observe), ("enforce", Mode::Enforce), ("monitoring", Mode::Observe)];

const SOON: Duration = Duration::from_secs(60);

/// Bit of CAP_SYS_RESOURCE.
const SYS_RESOURCE: u64 = 1 << 24;

/// Text of the configuration in the manifests.
fn configuration(manifests: &Manifests) -> &str {
    let text = &manifests.one("ConfigMap")["data"]["spillway.toml"];
    text.as_str().expect("the ConfigMap has the configuration")
}

/// Mounts of the container, each with its volume.
fn mounts(manifests: &Manifests) -> Vec<(&Value, &Value)> {
    let mounts = manifests.container()["volumeMounts"].as_array().expect("there are mounts");
    let volumes = manifests.pod()["volumes"].as_array().expect("there are volumes");
    let of = |mount: &&Value| {
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
        volume.unwrap_or_else(|| panic!("no volume {}", mount["name"]))
    };
    mounts.iter().map(|mount| (mount, of(&mount))).collect()
}

#[test]
fn manifests_are_known_and_refer_to_each_other() {
    let Some(servers) = Servers::find_or_skip("daemonset-manifests") else { return };
    for (directory, mode) in DIRECTORIES {
        let manifests = Manifests::read(&servers, directory);
        let daemons = manifests.one("DaemonSet");
        assert!(knows_every_field(&servers, daemons), "{directory}");
        let labels = &daemons["spec"]["template"]["metadata"]["labels"];
        assert_eq!(daemons["spec"]["selector"]["matchLabels"], *labels, "{directory}");
        assert_eq!(
            manifests.pod()["serviceAccountName"],
            manifests.one("ServiceAccount")["metadata"]["name"]
        );
        let binding = manifests.one("ClusterRoleBinding");
        assert_eq!(binding["roleRef"]["name"], manifests.one("ClusterRole")["metadata"]["name"]);
        assert_eq!(binding["subjects"][0]["name"], manifests.pod()["serviceAccountName"]);
        let (configured_at, config_map) = manifests.mounted("configMap");
        assert_eq!(config_map["name"], manifests.one("ConfigMap")["metadata"]["name"]);
        assert_eq!(configured_at, "/etc/spillway");
        let config = config::parse(configuration(&manifests), directory)
            .unwrap_or_else(|error| panic!("{directory}: {error}"));
        assert_eq!(config.mode, mode, "{directory}");
        // What the agent needs of the node, at the places where it looks for it.
        let at = |path: &Path| {
            let is_there =
                |(mount, _): &(&Value, &Value)| *path == *mount["mountPath"].as_str().unwrap_or("");
            mounts(&manifests).into_iter().find(is_there).unwrap_or_else(|| panic!("{path:?}"))
        };
        let (mount, volume) = at(Path::new("/sys/fs/cgroup"));
        assert_eq!(volume["hostPath"]["path"], mount["mountPath"]);
        assert_eq!(mount["readOnly"] == true, mode == Mode::Observe, "{directory}");
        let (state, _) = at(&config.record.state_dir);
        assert!(state["readOnly"].is_null(), "{directory}");
        let (logs, _) = at(&config.kubernetes.pod_logs_dir);
        assert_eq!(logs["readOnly"], true);
        for probe in ["readinessProbe", "livenessProbe"] {
            let get = &manifests.container()[probe]["httpGet"];
            let expected = json!({ "host": "127.0.0.1", "port": config.serve.listen.port(), "path": "/healthz" });
            assert_eq!(*get, expected, "{directory}");
        }
        if let Some(token) = &config.serve.token_file {
            let SecretSource::File(token) = token else { panic!("{directory}: {token:?}") };
            let (mount, volume) = at(token.parent().expect("a file has a directory"));
            assert_eq!(mount["readOnly"], true);
            // Only its owner may read a secret.
            assert_eq!(volume["secret"]["defaultMode"], 0o400);
        }
    }
}

#[test]
fn container_is_not_privileged_and_has_named_capabilities() {
    let Some(servers) = Servers::find_or_skip("daemonset-capabilities") else { return };
    for (directory, mode) in DIRECTORIES {
        let manifests = Manifests::read(&servers, directory);
        let context = &manifests.container()["securityContext"];
        let mut added = vec!["BPF", "PERFMON", "IPC_LOCK", "SYS_RESOURCE"];
        added.extend((mode == Mode::Enforce).then_some("DAC_OVERRIDE"));
        assert_eq!(strings(&context["capabilities"]["add"]), added, "{directory}");
        assert_eq!(strings(&context["capabilities"]["drop"]), ["ALL"], "{directory}");
        assert_eq!(
            (&context["privileged"], &context["allowPrivilegeEscalation"]),
            (&Value::Null, &json!(false))
        );
        assert_eq!(context["readOnlyRootFilesystem"], true, "{directory}");
        assert_eq!(
            manifests.rules(),
            json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] }])
        );
    }
}

/// Podman with storage of its own.
struct Podman {
    scratch: Scratch,
}

impl Podman {
    fn run(&self, args: &[&str]) -> Output {
        let dir = &self.scratch.0;
        let mut command = Command::new("podman");
        command.arg("--root").arg(dir.join("storage")).arg("--runroot").arg(dir.join("run"));
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
        command.args(["--runtime", "runc", "--events-backend", "none"]).args(args);
        command.env("CONTAINERS_CONF", dir.join("containers.conf"));
        // Not pipes: the container's monitor keeps them open as long as the container runs.
        let paths = ["stdout", "stderr"].map(|name| dir.join(name));
        let [stdout, stderr] = paths.each_ref().map(|path| File::create(path).expect("a new file"));
        let status = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).status();
        let [stdout, stderr] = paths.map(|path| fs::read(path).expect("reading the output"));
        Output { status: status.expect("running podman"), stdout, stderr }
    }

    /// Output of a command that has to succeed.
    fn output(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "podman {args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.run(&["rm", "--force", "--all", "--time", "5"]);
    }
}

/// Returns whether a container may have CAP_SYS_RESOURCE here.
fn has_sys_resource() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("there is /proc");
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounding = bounding.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    bounding.expect("the status has it") & SYS_RESOURCE != 0
}

/// Options of Podman for the container of a manifest, whose files are below a directory.
fn options(manifests: &Manifests, dir: &Path) -> Vec<String> {
    let (pod, container) = (manifests.pod(), manifests.container());
    let context = &container["securityContext"];
    let mut options = vec![format!(
        "--memory={}",
        container["resources"]["limits"]["memory"].as_str().expect("a limit").trim_end_matches('i')
    )];
    for (value, option) in [
        (&pod["hostPID"], "--pid=host"),
        (&pod["hostNetwork"], "--network=host"),
        (&context["readOnlyRootFilesystem"], "--read-only"),
    ] {
        assert_eq!(*value, true);
        options.push(option.to_owned());
    }
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["seccompProfile"]["type"], "Unconfined");
    for option in [
        "--security-opt=no-new-privileges",
        "--security-opt=seccomp=unconfined",
        "--cgroupns=private",
        "--env=NODE_NAME=node-1",
    ] {
        options.push(option.to_owned());
    }
    let capabilities = |what: &str| strings(&context["capabilities"][what]);
    options.extend(capabilities("drop").iter().map(|name| format!("--cap-drop={name}")));
    let may_have = |name: &&&str| **name != "SYS_RESOURCE" || has_sys_resource();
    options.extend(
        capabilities("add").iter().filter(may_have).map(|name| format!("--cap-add={name}")),
    );
    for (mount, volume) in mounts(manifests) {
        let name = volume["name"].as_str().expect("a volume has a name");
        let path = volume["hostPath"]["path"].as_str();
        let from = match name {
            // The node's own state is not touched, and the kubelet would fill these.
            "state" | "configuration" | "pod-logs" => dir.join(name),
            _ => PathBuf::from(path.expect("the others are directories of the host")),
        };
        fs::create_dir_all(&from).expect("making a directory");
        let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
        let to = mount["mountPath"].as_str().expect("a mount has a path");
        options.push(format!("--volume={}:{to}:{mode}", from.display()));
    }
    options
}

#[test]
fn container_of_the_manifest_finds_a_leak_of_the_node() {
    let Some(image) = env::var_os("SPILLWAY_IMAGE") else {
        return skip(
            "real_kubernetes",
            "needs the image that `cargo xtask test --kubernetes` builds",
        );
    };
    let Some(servers) = Servers::find_or_skip("real_kubernetes") else { return };
    if !is_root("real_kubernetes") {
        return;
    }
    let manifests = Manifests::read(&servers, "agent");
    let podman = Podman { scratch: Scratch::make("daemonset") };
    let dir = podman.scratch.0.clone();
    // The defaults are above the limits of this machine.
    let limits = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1000:1000\"]\n";
    fs::write(dir.join("containers.conf"), limits).expect("writing a file");
    podman.output(&["load", "--quiet", "--input", &image.to_string_lossy()]);
    let name = manifests.container()["image"].as_str().expect("the container has an image");
    let options = options(&manifests, &dir);
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    let addr: SocketAddr = free.expect("finding a free port");
    // The same configuration, on a port of the test, with verdicts in seconds.
    let config = format!(
        "{}\n[serve]\nlisten = \"{addr}\"\n[sense]\ninterval = \"100ms\"\n[detect.leak]\n\
         warm_up = \"0s\"\nhorizons = [\"4s\", \"6s\", \"10s\"]\nmin_growth = \"16MiB\"\n",
        configuration(&manifests)
    );
    fs::write(dir.join("configuration/spillway.toml"), config).expect("writing a file");

    let mut leak = Command::new(env!("CARGO_BIN_EXE_workload"));
    let (Some(cgroup), leak) =
        apart("daemonset-leak", leak.args(["leak", "--rate=8MiB", "--limit=1500MiB"]))
    else {
        panic!("root can make a cgroup");
    };
    let mut args = vec!["run", "--detach", "--name=agent"];
    args.extend(options.iter().map(String::as_str));
    let image = format!("localhost/{name}");
    args.extend([&*image, "run", "--config", "/etc/spillway/spillway.toml", "--json"]);
    podman.output(&args);
    let logs = || {
        let output = podman.run(&["logs", "agent"]);
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned())
    };
    let metrics = || http_get(addr, "/metrics").ok();
    let is_up = || metrics().filter(|text| metric(text, "spillway_processes") > 0.0);
    let text = wait_for(SOON, is_up).unwrap_or_else(|| panic!("{:?}", logs()));
    let attached = "spillway_probe_state{probe=\"process_memory\",state=\"attached\"";
    assert!(text.contains(attached), "{text}");
    let health = http_get(addr, "/healthz").expect("the agent should respond");
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");

    let claim = || {
        let [printed, _] = logs();
        let verdicts = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        verdicts.into_iter().find(|line| line["verdict"] == "leak" && line["pid"] == leak.pid())
    };
    let claim = wait_for(SOON, claim).unwrap_or_else(|| panic!("{:?}", logs()));
    assert_eq!(claim["cgroup"], *cgroup.path, "{claim}");
    println!(
        "resident: {:.1} MB",
        metric(&metrics().expect("it answers"), "spillway_resident_bytes") / 1e6
    );
    let status = podman.output(&["exec", "agent", "spillway", "status"]);
    assert!(status.contains("workload (pid ") && status.contains("leaks memory"), "{status}");
    let identified = || {
        let status = podman.output(&["exec", "agent", "spillway", "status", "--json"]);
        let status: Value = serde_json::from_str(&status).ok()?;
        let incidents = status["incidents"].as_array()?.iter();
        let identity = incidents.map(|one| &one["identity"]).find(|one| one["command"].is_string());
        identity.cloned()
    };
    let identity = wait_for(SOON, identified).unwrap_or_else(|| panic!("{:?}", logs()));
    // Without CAP_SYS_PTRACE the host's list of users is not seen.
    let program = env!("CARGO_BIN_EXE_workload");
    let command = format!("{program} leak --rate=8MiB --limit=1500MiB");
    assert_eq!((&identity["user"], &identity["command"]), (&"uid 0".into(), &command.into()));
    assert_eq!(identity["executable"], program, "{identity}");
    assert!(identity["started"].is_string(), "{identity}");
    let pid = podman.output(&["inspect", "--format={{.State.Pid}}", "agent"]);
    let confined = fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent runs");
    assert!(confined.contains("NoNewPrivs:\t1") && confined.contains("Seccomp:\t2"), "{confined}");
    podman.output(&["stop", "--time", "10", "agent"]);
    let code = podman.output(&["inspect", "--format={{.State.ExitCode}}", "agent"]);
    assert_eq!(code, "0", "{:?}", logs());
    let kept = fs::read_dir(dir.join("state")).expect("the state is there").count();
    assert!(kept > 0, "nothing is kept for the next pod");
}
