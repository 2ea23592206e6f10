//! What an object has that its type does not.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::operator::{PodMonitor, PrometheusRule, ServiceMonitor};

/// Annotations that were fields' forerunners: a server of today warns of them.
const DEPRECATED: &[&str] = &[
    "container.apparmor.security.beta.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
];

/// Each field of the object that its type does not know, and each deprecated annotation; `object` may be a part of one, as in a patch.
///
/// # Errors
/// If no type is known for its kind, or a value is not one of its field's type.
pub(crate) fn unknown(object: &Value) -> Result<Vec<String>> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let written = match (version, kind) {
        ("v1", "ConfigMap") => again::<ConfigMap>(object),
        ("v1", "Namespace") => again::<Namespace>(object),
        ("v1", "Pod") => again::<Pod>(object),
        ("v1", "Service") => again::<Service>(object),
        ("v1", "ServiceAccount") => again::<ServiceAccount>(object),
        ("apps/v1", "DaemonSet") => again::<DaemonSet>(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => again::<NetworkPolicy>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => again::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
            again::<ClusterRoleBinding>(object)
        }
        ("rbac.authorization.k8s.io/v1", "Role") => again::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => again::<RoleBinding>(object),
        ("scheduling.k8s.io/v1", "PriorityClass") => again::<PriorityClass>(object),
        ("monitoring.coreos.com/v1", "PodMonitor") => again::<PodMonitor>(object),
        ("monitoring.coreos.com/v1", "PrometheusRule") => again::<PrometheusRule>(object),
        ("monitoring.coreos.com/v1", "ServiceMonitor") => again::<ServiceMonitor>(object),
        _ => bail!(
            "no type is known of {version} {kind}: add it to {}",
            file!()
        ),
    };
    let written = written.with_context(|| format!("{kind} {}", name(object)))?;
    let mut problems = Vec::new();
    compare(kind, object, &written, &mut problems);
    deprecated(kind, object, &mut problems);
    Ok(problems)
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The object as its type writes it.
fn again<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value> {
    let typed: T = serde_json::from_value(object.clone())?;
    Ok(serde_json::to_value(typed)?)
}

/// Whether all of `ours` is in `written`; null is no value, only a patch has it.
fn compare(at: &str, ours: &Value, written: &Value, problems: &mut Vec<String>) {
    match (ours, written) {
        (Value::Object(ours), Value::Object(written)) => {
            for (field, value) in ours.iter().filter(|(_, value)| !value.is_null()) {
                let at = format!("{at}.{field}");
                match written.get(field) {
                    Some(written) => compare(&at, value, written, problems),
                    None => problems.push(format!("{at} is no field that its type has")),
                }
            }
        }
        (Value::Array(ours), Value::Array(written)) if ours.len() == written.len() => {
            for (index, (ours, written)) in ours.iter().zip(written).enumerate() {
                compare(&format!("{at}[{index}]"), ours, written, problems);
            }
        }
        _ if ours == written => {}
        _ => problems.push(format!("{at} is {ours}, of which its type makes {written}")),
    }
}

/// Finds deprecated annotations, of the object and of pods in it.
fn deprecated(at: &str, value: &Value, problems: &mut Vec<String>) {
    let Value::Object(fields) = value else { return };
    for (field, value) in fields {
        let at = format!("{at}.{field}");
        if field == "annotations" {
            let names = value
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name);
            let is_old = |name: &&String| DEPRECATED.iter().any(|old| name.starts_with(old));
            let old = names.filter(is_old);
            problems.extend(old.map(|name| format!("{at}: {name} is deprecated")));
        } else {
            deprecated(&at, value, problems);
        }
    }
}

#[cfg(test)]
mod tests;
