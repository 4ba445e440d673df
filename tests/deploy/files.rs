//! Every file of `deploy/` as a reader of its format sees it, and what they say of each other.

use std::process::Command;

use libtest_mimic::Failed;
use serde::Deserialize as _;
use serde_yaml::{Deserializer, Value};

use super::Test;
use super::tools::{all, files, octopus, program, report, root, run, text, yaml};

pub(super) fn tests() -> Vec<Test> {
    vec![
        ("every_yaml_and_json_file_can_be_read", readable),
        ("every_configuration_is_good_to_the_broker", configurations),
        ("image_is_built_from_what_is_there", image),
        ("manifests_belong_together", manifests),
        ("manifests_are_what_kustomize_makes_of_them", kustomize),
    ]
}

fn readable() -> Result<(), Failed> {
    let mut faults = Vec::new();
    for path in files("deploy")? {
        let text = text(&path)?;
        if path.ends_with(".json") {
            // Stricter than YAML: what Docker and Grafana read.
            let mut python = Command::new("python3");
            python.args(["-m", "json.tool"]).arg(root().join(&path)).arg("/dev/null");
            faults.extend(run(&mut python).err().map(|fault| format!("{path}: {fault:?}")));
        } else if [".yml", ".yaml"].iter().any(|end| path.ends_with(end)) {
            for document in Deserializer::from_str(&text) {
                let value = Value::deserialize(document);
                faults.extend(value.err().map(|error| format!("{path}: {error}")));
            }
        }
    }
    report(&faults)
}

/// Both `octopus.yml`: the stack's and the one within the ConfigMap. A key that the broker does
/// not know is a warning to it and a fault here.
fn configurations() -> Result<(), Failed> {
    let map = yaml("deploy/kubernetes/config.yaml")?;
    let in_map = map["data"]["octopus.yml"].as_str().ok_or("no octopus.yml in the ConfigMap")?;
    for text in [text("deploy/octopus.yml")?, in_map.to_owned()] {
        let scratch = super::tools::Scratch::new("config")?;
        let file = scratch.write("octopus.yml", &super::nginx::as_far_as_known(&text)?)?;
        let mut command = Command::new(octopus());
        // It would be read as a key.
        command.env_remove("OCTOPUS_TEST_BROKER");
        let output = command.arg("check-config").arg("--config").arg(file).output()?;
        let said = all(&output);
        assert!(output.status.success() && !said.contains("warning"), "{said}");
    }
    Ok(())
}

/// Copied paths exist and are not kept from the builder; the user is a number and not 0; the
/// program and its sub-commands exist.
fn image() -> Result<(), Failed> {
    let text = text("deploy/Dockerfile")?;
    let ignore = super::tools::text("deploy/Dockerfile.dockerignore")?;
    let steps: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let of = |word: &str| -> Vec<String> {
        let prefix = format!("{word} ");
        let steps = steps.iter().filter_map(move |step| step.strip_prefix(&prefix));
        steps.map(str::to_owned).collect()
    };
    for image in of("FROM") {
        let name = image.split_whitespace().next().unwrap_or_default();
        let tag = name.rsplit_once(':').map_or("", |(_, tag)| tag);
        assert!(tag.contains('.'), "{image}: not pinned");
    }
    for copy in of("COPY").iter().filter(|copy| !copy.starts_with("--from")) {
        let words: Vec<&str> = copy.split_whitespace().collect();
        for source in &words[..words.len() - 1] {
            assert!(root().join(source).exists(), "{source}");
        }
    }
    let admitted = ignore.lines().filter_map(|line| line.strip_prefix('!'));
    for path in admitted.filter(|path| !path.contains('*')) {
        assert!(root().join(path).exists(), "{path} of the .dockerignore");
    }
    let user = of("USER").join("");
    assert!(user.split(':').all(|id| id.parse().is_ok_and(|id: u32| id > 0)), "USER {user}");
    let builds = text.contains("cargo build --release --locked --package octopus --bin octopus");
    assert!(builds, "the builder builds the broker");
    assert_eq!(of("ENTRYPOINT"), [r#"["/usr/local/bin/octopus"]"#]);
    let check = text.lines().find_map(|line| line.trim().strip_prefix("CMD [")).ok_or("no CMD")?;
    has_sub_commands(check)
}

/// Whatever stands behind the program's name in `text` is a sub-command of it.
fn has_sub_commands(text: &str) -> Result<(), Failed> {
    let help = run(Command::new(octopus()).arg("--help"))?;
    let words: Vec<&str> =
        text.split(['"', ',', ' ', ']', '[']).filter(|w| !w.is_empty()).collect();
    for pair in words.windows(2).filter(|pair| pair[0].ends_with("/octopus")) {
        let listed = help.lines().any(|line| line.trim_start().starts_with(pair[1]));
        assert!(pair[1].starts_with('-') || listed, "octopus {} is no sub-command", pair[1]);
    }
    Ok(())
}

/// Selectors select, named ports exist, the configuration that is mounted is there.
fn manifests() -> Result<(), Failed> {
    let set = yaml("deploy/kubernetes/statefulset.yaml")?;
    let pod = &set["spec"]["template"];
    let labels = &pod["metadata"]["labels"];
    assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);
    let disruption = yaml("deploy/kubernetes/disruption.yaml")?;
    assert_eq!(&disruption["spec"]["selector"]["matchLabels"], labels);
    let container = &pod["spec"]["containers"][0];
    let ports = container["ports"].as_sequence().ok_or("no ports")?;
    let mut headless = false;
    for document in Deserializer::from_str(&text("deploy/kubernetes/services.yaml")?) {
        let service = Value::deserialize(document)?;
        assert_eq!(&service["spec"]["selector"], labels);
        headless |= service["spec"]["clusterIP"] == "None"
            && service["metadata"]["name"] == set["spec"]["serviceName"];
        for port in service["spec"]["ports"].as_sequence().into_iter().flatten() {
            let named = ports.iter().find(|named| named["name"] == port["targetPort"]);
            assert_eq!(named.ok_or("no such port")?["containerPort"], port["port"]);
        }
    }
    assert!(headless, "the StatefulSet's service is headless");
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], "http", "{probe}");
    }
    let own = &container["securityContext"];
    assert_eq!(own["readOnlyRootFilesystem"], true);
    assert_eq!(own["allowPrivilegeEscalation"], false);
    let seccomp = &pod["spec"]["securityContext"]["seccompProfile"];
    assert_eq!(seccomp["type"], "Localhost");
    assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
    let config = yaml("deploy/kubernetes/config.yaml")?;
    let volumes = pod["spec"]["volumes"].as_sequence().ok_or("no volumes")?;
    let mounted = volumes.iter().any(|v| v["configMap"]["name"] == config["metadata"]["name"]);
    assert!(mounted, "the ConfigMap is mounted");
    Ok(())
}

/// Where kubectl is installed, it puts the manifests together; else their list is compared.
fn kustomize() -> Result<(), Failed> {
    let list = yaml("deploy/kubernetes/kustomization.yaml")?;
    let list: Vec<&str> =
        list["resources"].as_sequence().into_iter().flatten().filter_map(Value::as_str).collect();
    let there = files("deploy/kubernetes")?;
    for path in there.iter().filter(|path| !path.ends_with("kustomization.yaml")) {
        let name = path.rsplit('/').next().unwrap_or_default();
        assert!(list.contains(&name), "{name} is not in kustomization.yaml");
    }
    let directory = root().join("deploy/kubernetes");
    match program("kubectl").arg("kustomize").arg(directory).output() {
        Ok(output) if !output.status.success() => Err(all(&output).into()),
        _ => Ok(()),
    }
}
