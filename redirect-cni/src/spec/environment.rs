//! What a runtime says in the environment ("Parameters").

use std::ffi::OsString;
use std::fmt;

use super::names::{is_identifier, is_interface};
use super::{Code, Error, Version};

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// A container starts.
    Add,
    /// It ended.
    Del,
    /// Is it as it was?
    Check,
    /// These are left.
    Gc,
    /// Could one start?
    Status,
    /// Which versions are spoken?
    Version,
}

impl Command {
    const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The first version that has it.
    #[must_use]
    pub fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::V0_3_0,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }

    /// Is it about one container?
    fn has_container(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The variables that are looked at. Those that the command does not have are empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: Command,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_ARGS`.
    pub arguments: String,
}

impl Environment {
    /// Reads the variables that the command has, and checks them.
    pub fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let variables = Variables(lookup);
        let command = variables.text("CNI_COMMAND")?;
        let command = Command::named(&command).ok_or_else(|| {
            invalid("CNI_COMMAND is not a command", format!("{command:?} (of CNI {})", Version::NEWEST))
        })?;
        let mut environment = Self {
            command,
            container: String::new(),
            ifname: String::new(),
            netns: String::new(),
            arguments: String::new(),
        };
        if command.has_container() {
            environment.container = variables.checked("CNI_CONTAINERID", is_identifier)?;
            environment.ifname = variables.checked("CNI_IFNAME", is_interface)?;
        }
        // DEL has both as well, and needs neither: what they speak of may be gone.
        if matches!(command, Command::Add | Command::Check) {
            environment.netns = variables.checked("CNI_NETNS", |path| !path.is_empty())?;
            environment.arguments = variables.text("CNI_ARGS")?;
        }
        Ok(environment)
    }
}

struct Variables<F>(F);

impl<F: Fn(&str) -> Option<OsString>> Variables<F> {
    /// Not set is the same as empty.
    fn text(&self, name: &str) -> Result<String, Error> {
        self.0(name)
            .unwrap_or_default()
            .into_string()
            .map_err(|value| invalid(format!("{name} is not UTF-8"), format!("{}", value.display())))
    }

    fn checked(&self, name: &str, good: impl Fn(&str) -> bool) -> Result<String, Error> {
        let value = self.text(name)?;
        match value.as_str() {
            "" => Err(invalid(format!("{name} is missing"), "")),
            bad if !good(bad) => Err(invalid(format!("{name} is invalid"), format!("{bad:?}"))),
            _ => Ok(value),
        }
    }
}

fn invalid(message: impl Into<String>, details: impl Into<String>) -> Error {
    Error::new(Code::InvalidEnvironment, message, details)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "A=B"),
    ];

    fn with(change: &str, value: Option<&str>) -> Result<Environment, Error> {
        Environment::read(|name| {
            let given = ADD.iter().find(|(given, _)| *given == name).map(|(_, value)| *value);
            if name == change { value } else { given }.map(OsString::from)
        })
    }

    #[test]
    fn each_command_has_its_variables() {
        assert_eq!(with("", None).unwrap().netns, "/run/netns/c1");
        for (name, command) in [("CNI_CONTAINERID", "DEL"), ("CNI_NETNS", "DEL"), ("CNI_NETNS", "GC")] {
            let environment = Environment::read(|asked| match asked {
                "CNI_COMMAND" => Some(command.into()),
                "CNI_IFNAME" => Some("eth0".into()),
                "CNI_CONTAINERID" if name != asked => Some("c1".into()),
                _ => None,
            });
            assert_eq!(environment.is_ok(), name == "CNI_NETNS", "{command} without {name}");
        }
    }

    #[test]
    fn the_message_names_the_variable() {
        for (name, value) in [
            ("CNI_COMMAND", None),
            ("CNI_COMMAND", Some("add")),
            ("CNI_CONTAINERID", None),
            ("CNI_CONTAINERID", Some("../x")),
            ("CNI_IFNAME", Some("a/b")),
            ("CNI_IFNAME", Some("")),
            ("CNI_NETNS", None),
        ] {
            let error = with(name, value).unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment);
            assert!(error.message.contains(name), "{error}");
        }
        assert!(with("CNI_ARGS", None).is_ok());
    }

    #[test]
    fn what_is_not_text_is_refused() {
        let error = Environment::read(|_| Some(OsString::from_vec(vec![0xff]))).unwrap_err();
        assert!(error.message.contains("CNI_COMMAND"), "{error}");
    }
}
