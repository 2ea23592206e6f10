//! Command lines, configurations and answers as kube-proxy has them.

use std::{net::TcpListener, os::unix::fs::symlink, thread};

use super::*;

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

#[test]
fn flags_and_files() {
    let told = flags(
        b"/usr/local/bin/kube-proxy\0--conntrack-max-per-core=1000\0--conntrack-min\x0050\0--v=2\0\
          --conntrack-tcp-be-liberal\0--metrics-bind-address=::1\0",
    );
    assert_eq!((told.max_per_core, told.min), (Some(1000), Some(50)));
    assert_eq!(told.be_liberal, Some(true));
    assert_eq!(told.metrics.as_deref(), Some("[::1]:10249"));
    assert_eq!(flags(b""), ProxyFlags::default());

    let told = settings(
        CONFIG,
        flags(b"kube-proxy\0--config=/etc/x\0--conntrack-min=1\0"),
    );
    assert_eq!(told.config.as_deref(), Some("/etc/x"));
    assert_eq!((told.max_per_core, told.min), (Some(65_536), Some(200_000)));
    assert_eq!(told.be_liberal, Some(true));
    assert_eq!(told.metrics.as_deref(), Some("127.0.0.1:9999"));
}

#[test]
fn a_process_with_a_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Root::at(folder.path());
    let process = root.proc("321");
    fs::create_dir_all(process.join("root/var/lib/kube-proxy")).expect("a folder");
    fs::write(process.join("comm"), "kube-proxy\n").expect("a file");
    let line = b"kube-proxy\0--config=/var/lib/kube-proxy/config.conf\0";
    fs::write(process.join("cmdline"), line).expect("a file");
    let config = process.join("root/var/lib/kube-proxy/config.conf");
    let mut facts = Facts::default();
    look(&root, &mut facts);
    let proxy = facts.proxy.expect("it is there");
    assert_eq!((proxy.max_per_core, proxy.min), (32_768, 131_072));
    assert_eq!(facts.unseen.len(), 2, "no configuration, no version");

    fs::write(&config, CONFIG).expect("a file");
    let mut facts = Facts::default();
    look(&root, &mut facts);
    let proxy = facts.proxy.expect("it is there");
    assert_eq!((proxy.process, proxy.max_per_core), (321, 65_536));
    assert!(proxy.be_liberal);
    assert_eq!(facts.unseen.len(), 1);

    fs::write(process.join("comm"), "kube-proxy-like\n").expect("a file");
    let mut facts = Facts::default();
    look(&root, &mut facts);
    assert_eq!((facts.proxy, facts.unseen.len()), (None, 0));
}

#[test]
fn another_network_namespace_is_told_from_ours() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Root::at(folder.path());
    for (process, link) in [("self", "net:[1]"), ("7", "net:[1]"), ("8", "net:[2]")] {
        let namespaces = root.proc(process).join("ns");
        fs::create_dir_all(&namespaces).expect("a folder");
        symlink(link, namespaces.join("net")).expect("a link");
    }
    assert!(shares_our_network(&root, &root.proc("7")));
    assert!(!shares_our_network(&root, &root.proc("8")));
    assert!(!shares_our_network(&root, &root.proc("9")));
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
    let said = ask_version(&address);
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
    assert!(ask_version("127.0.0.1:1").is_err(), "nobody listens");
    assert!(ask_version("nowhere").is_err());
}

#[test]
fn who_lowers_the_limit() {
    let proxy = |version: &str| KubeProxy {
        minor: minor(version),
        max_per_core: 32_768,
        min: 131_072,
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
    let leaves = KubeProxy::default();
    assert_eq!(leaves.wanted(64), None);
}
