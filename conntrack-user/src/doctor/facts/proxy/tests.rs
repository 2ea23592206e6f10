//! Command lines, configurations and answers as kube-proxy has them.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::symlink,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::{
    version::{ask_here, minor},
    *,
};

const CONFIG: &str = "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
conntrack:
  maxPerCore: 65536 # twice
  min: 200000
  tcpBeLiberal: true
  tcpEstablishedTimeout: 24h0m0s
kind: KubeProxyConfiguration
metricsBindAddress: \"127.0.0.1:9999\"
min: 7
mode: \"iptables\"
";

fn by_line(line: &str) -> Told {
    Told::by_flags(line.split(' '))
}

#[test]
fn flags_in_each_style() {
    let told = by_line(
        "/usr/local/bin/kube-proxy --conntrack-max-per-core=1000 --conntrack-min 50 --v=2 \
         --metrics-bind-address=::1",
    );
    assert_eq!((told.max_per_core, told.min), (Some(1000), Some(50)));
    assert_eq!(told.metrics.as_deref(), Some("::1"));
    assert_eq!(version::with_port("::1").as_deref(), Some("[::1]:10249"));
    assert_eq!(by_line(""), Told::default());
    let wrong = by_line("kube-proxy --conntrack-min=many");
    assert_eq!(
        wrong.unread.as_deref(),
        Some("--conntrack-min many is no number")
    );
}

/// A machine with one process.
struct Machine {
    _folder: tempfile::TempDir,
    root: Root,
}

impl Machine {
    fn new(comm: &str, line: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        fs::create_dir_all(root.proc("321/root")).expect("a folder");
        fs::write(root.proc("321/comm"), format!("{comm}\n")).expect("a file");
        fs::write(root.proc("321/cmdline"), line.replace(' ', "\0")).expect("a file");
        Self {
            _folder: folder,
            root,
        }
    }

    /// A file as the process sees it.
    fn file(&self, path: &str, text: &str) {
        let path = self.root.proc(format!("321/root/{path}"));
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        look(&self.root, &mut facts);
        facts
    }

    /// `maxPerCore` and `min`; `None`: there is none, or they are not known.
    fn settings(&self) -> Option<(u64, u64)> {
        let settings = self.facts().proxy?.settings?;
        Some((settings.max_per_core, settings.min))
    }
}

/// The defaults of kube-proxy.
const DEFAULTS: Option<(u64, u64)> = Some((32_768, 131_072));

/// What a kube-proxy takes from a file with this text.
fn configured(text: &str) -> Option<(u64, u64)> {
    let machine = Machine::new(
        "kube-proxy",
        "kube-proxy --config=/etc/config.conf --conntrack-min=1",
    );
    machine.file("etc/config.conf", text);
    machine.settings()
}

#[test]
fn configurations_in_each_style() {
    let kind = "kind: KubeProxyConfiguration\n";
    for (text, expected) in [
        (CONFIG.to_owned(), Some((65_536, 200_000))),
        (
            format!("{kind}conntrack: {{maxPerCore: 0}}\n"),
            Some((0, 131_072)),
        ),
        (
            r#"{"kind":"KubeProxyConfiguration","conntrack":{"maxPerCore":0,"min":0}}"#.to_owned(),
            Some((0, 0)),
        ),
        (
            "{\n\t\"kind\": \"KubeProxyConfiguration\",\n\t\"conntrack\": {\"maxPerCore\": 7}\n}"
                .to_owned(),
            Some((7, 131_072)),
        ),
        (
            format!("\"conntrack\":\n    \"maxPerCore\": 0\n    'min': 5\n{kind}"),
            Some((0, 5)),
        ),
        (
            format!("{kind}conntrack:\n  max: null\n  maxPerCore: null\n  min: ~\n"),
            DEFAULTS,
        ),
        (format!("{kind}conntrack: null\n"), DEFAULTS),
        (
            format!(
                "kind: ClusterConfiguration\nconntrack: {{min: 3}}\n---\n{kind}conntrack: {{min: 4}}\n"
            ),
            Some((32_768, 4)),
        ),
        // Not a guess.
        ("kind: ClusterConfiguration\n".to_owned(), None),
        (format!("{kind}conntrack: {{maxPerCore: many}}\n"), None),
        (format!("{kind}conntrack: {{maxPerCore: -1}}\n"), None),
        (format!("{kind}conntrack: [\n"), None),
        (String::new(), None),
        ("\u{0}\u{1}".to_owned(), None),
    ] {
        assert_eq!(configured(&text), expected, "{text}");
    }
}

#[test]
fn what_cannot_be_read_is_said_and_not_guessed() {
    let machine = Machine::new("kube-proxy", "kube-proxy --config=/etc/config.conf");
    let facts = machine.facts();
    assert_eq!(facts.unseen.len(), 2, "no configuration, no version");
    assert_eq!(facts.proxy.expect("it is there").settings, None);

    machine.file("etc/config.conf", "secret: [\n");
    let facts = machine.facts();
    let said = &facts.unseen[0].because;
    assert!(
        said.contains("/etc/config.conf") && !said.contains("secret"),
        "{said}"
    );

    machine.file("etc/config.conf", CONFIG);
    let facts = machine.facts();
    assert_eq!(facts.unseen.len(), 1, "no version");
    let proxy = facts.proxy.expect("it is there");
    assert_eq!(proxy.config.as_deref(), Some(Path::new("/etc/config.conf")));

    fs::remove_file(machine.root.proc("321/root/etc/config.conf")).expect("a file");
    mkfifo(
        &machine.root.proc("321/root/etc/config.conf"),
        Mode::S_IRWXU,
    )
    .expect("a pipe");
    assert_eq!(
        machine.settings(),
        None,
        "it does not wait for somebody to write"
    );
}

#[test]
fn a_process_of_that_name_elsewhere_is_another() {
    let machine = Machine::new("kube-proxy", "kube-proxy --conntrack-min=1");
    let network = |process: &str, link: &str| {
        let namespaces = machine.root.proc(process).join("ns");
        fs::create_dir_all(&namespaces).expect("a folder");
        drop(fs::remove_file(namespaces.join("net")));
        symlink(link, namespaces.join("net")).expect("a link");
    };
    network("1", "net:[1]");
    assert_eq!(
        machine.settings(),
        Some((32_768, 1)),
        "its own can't be read"
    );
    network("321", "net:[2]");
    assert_eq!(machine.settings(), None);
    network("321", "net:[1]");
    assert_eq!(machine.settings(), Some((32_768, 1)));
}

#[test]
fn a_command_line_that_cannot_be_read_is_no_default() {
    let machine = Machine::new("kube-proxy", "");
    fs::remove_file(machine.root.proc("321/cmdline")).expect("a file");
    let facts = machine.facts();
    assert_eq!(facts.proxy.expect("it is there").settings, None);
    assert_eq!(facts.unseen[0].what, "kube-proxy's configuration");
}

#[test]
fn programs_that_have_it_inside() {
    for (comm, line, expected) in [
        ("kube-proxy-like", "kube-proxy-like --conntrack-min=1", None),
        ("hyperkube", "/hyperkube kubelet --v=2", None),
        (
            "hyperkube",
            "/hyperkube proxy --conntrack-max-per-core=9",
            Some((9, 131_072)),
        ),
        (
            "kubelite",
            "/snap/kubelite --kubelet-args-file=/args/kubelet",
            DEFAULTS,
        ),
        (
            "kubelite",
            "/snap/kubelite --proxy-args-file=/args/kube-proxy",
            DEFAULTS,
        ),
        ("k3s", "k3s kubectl get pods", None),
        ("k3s", "k3s server", DEFAULTS),
        ("k3s-agent", "/usr/local/bin/k3s agent", DEFAULTS),
        ("k3s-server", "k3s server --disable-kube-proxy", None),
        (
            "k3s-server",
            "k3s server --kube-proxy-arg=conntrack-min=5 --kube-proxy-arg conntrack-max-per-core=0",
            Some((0, 5)),
        ),
    ] {
        let machine = Machine::new(comm, line);
        assert_eq!(machine.settings(), expected, "{line}");
    }
    let kubelite = Machine::new(
        "kubelite",
        "/snap/kubelite --proxy-args-file=/args/kube-proxy",
    );
    kubelite.file(
        "args/kube-proxy",
        "# ours\n--kubeconfig=${SNAP_DATA}/x\n\"--conntrack-min=6\"\n",
    );
    assert_eq!(kubelite.settings(), Some((32_768, 6)));

    let k3s = Machine::new("k3s-server", "k3s server --kube-proxy-arg=conntrack-min=5");
    for (text, expected) in [
        ("kube-proxy-arg: conntrack-max-per-core=0\n", Some((0, 5))),
        (
            "kube-proxy-arg:\n- conntrack-max-per-core=8\n- conntrack-min=4\nnode-label: [a=b]\n",
            Some((8, 5)),
        ),
        ("disable-kube-proxy: true\n", None),
        ("kube-proxy-arg: {a: b}\n", None),
        ("write-kubeconfig-mode: \"0644\"\n", Some((32_768, 5))),
        ("", Some((32_768, 5))),
    ] {
        k3s.file("etc/rancher/k3s/config.yaml", text);
        assert_eq!(k3s.settings(), expected, "{text}");
    }
}

/// One answer to one request, from a port of our own.
fn answered(answer: &'static [u8]) -> io::Result<Option<String>> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = [0; 256];
        let read = stream.read(&mut request).expect("a request");
        assert!(request[..read].starts_with(b"GET /metrics HTTP/1.0\r\n"));
        drop(stream.write_all(answer));
    });
    let said = ask_here(&address);
    server.join().expect("it answers");
    said
}

#[test]
fn the_version_is_asked_for() {
    let answer = b"HTTP/1.0 200 OK\r\n\r\n# TYPE kubernetes_build_info gauge\n\
        kubernetes_build_info{build_date=\"2024\",git_version=\"v1.30.2\",go_version=\"go1.22\"} 1\n";
    assert_eq!(
        answered(answer).expect("an answer").as_deref(),
        Some("v1.30.2")
    );
    assert_eq!(
        answered(b"HTTP/1.0 404 no\r\n\r\n").expect("an answer"),
        None
    );
    assert_eq!(answered(b"\xff\xfe").expect("an answer"), None);
    let liar = b"kubernetes_build_info{git_version=\"v1.30\x1b[31m\"} 1\n";
    assert_eq!(answered(liar).expect("an answer"), None);
    assert!(ask_here("127.0.0.1:1").is_err(), "nobody listens");
    assert!(ask_here("nowhere").is_err());
}

#[test]
fn who_lowers_the_limit() {
    let proxy = |version: &str| KubeProxy {
        minor: minor(version),
        settings: Some(Told::default().settings()),
        ..KubeProxy::default()
    };
    for (version, lowers) in [
        ("v1.21.9", Some(true)),
        ("v1.22.0", Some(false)),
        ("v1.28.15", Some(false)),
        ("v1.29.0", Some(true)),
        ("v1.36.2+k3s1", Some(true)),
        ("v1.38.0", Some(false)),
        ("v2.0", None),
    ] {
        assert_eq!(proxy(version).lowers(), lowers, "{version}");
    }
    assert_eq!(proxy("v1.30.0").wanted(2), Some(131_072));
    assert_eq!(proxy("v1.30.0").wanted(64), Some(2_097_152));
    assert_eq!(proxy("v1.36.0").wanted(64), Some(1_048_576));
    let leaves = KubeProxy {
        settings: Some(ProxySettings {
            max_per_core: 0,
            min: 131_072,
        }),
        ..KubeProxy::default()
    };
    assert_eq!(leaves.wanted(64), None);
    assert_eq!(KubeProxy::default().wanted(64), None, "not known");
}

#[test]
fn who_answers_without_end_is_not_listened_to_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        while stream.write_all(b"#").is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    });
    let begin = Instant::now();
    let error = ask_here(&address).expect_err("no version comes");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(begin.elapsed() < Duration::from_secs(10));
    server.join().expect("it ends");
}
