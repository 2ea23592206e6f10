//! The way to the API: the caller's kubeconfig, or in a pod its service account.

use std::error::Error;

use ctpressure_model::command_line::Failure;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::options::ClusterArgs;

/// An error with all of its causes, each once.
pub(crate) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// A client as the flags say.
///
/// # Errors
/// If there is no way, with what to do.
pub(crate) async fn connect(args: &ClusterArgs) -> Result<Client, Failure> {
    let mut config = configuration(args).await.map_err(|what| Failure {
        what,
        help: "see `kubectl config view`; --kubeconfig, --context and --user choose".to_owned(),
    })?;
    if let Some(user) = &args.as_user {
        config.auth_info.impersonate = Some(user.clone());
        let groups = Some(args.as_group.clone()).filter(|groups| !groups.is_empty());
        config.auth_info.impersonate_groups = groups;
    }
    Client::try_from(config).map_err(|error| Failure {
        what: format!("the kubeconfig can't be used: {}", causes(&error)),
        help: "does `kubectl get --raw /version` work with it?".to_owned(),
    })
}

async fn configuration(args: &ClusterArgs) -> Result<Config, String> {
    let options = KubeConfigOptions {
        context: args.context.clone(),
        cluster: None,
        user: args.user.clone(),
    };
    let chosen = options.context.is_some() || options.user.is_some();
    let config = match &args.kubeconfig {
        None if !chosen => {
            let config = Config::infer().await;
            return config.map_err(|error| format!("no way to a cluster: {}", causes(&error)));
        }
        None => Kubeconfig::read(),
        Some(path) => Kubeconfig::read_from(path),
    };
    let config = match config {
        Ok(config) => Config::from_custom_kubeconfig(config, &options).await,
        Err(error) => Err(error),
    };
    config.map_err(|error| format!("the kubeconfig can't be used: {}", causes(&error)))
}
