//! `[people]`.

use std::path::Path;

use super::operator_says;
use crate::config::Config;
use crate::config::people::Role;

#[test]
fn roles_and_users_that_do_not_exist() {
    operator_says(
        r#"
[people]
socket = "/run/bursar/people.sock"
"uid:1000" = ["finanse"]
"uid:1001" = []
"uid:bob" = ["finance"]
bob = ["finance"]
"#,
        r#"
bursar.toml:4:15: people: "finanse" is not a role
  4 |  … "finanse"]
    |    ^^^^^^^^^
  Did you mean "finance"?

bursar.toml:5:14: people."uid:1001": the list is empty
  5 |  … []
    |    ^^
  Remove the line, or list at least one role, such as ["finance"].

bursar.toml:6:1: [people] has no key `uid:bob`
  6 | "uid:bob" = …
    | ^^^^^^^^^
  Write a user as "uid:1000"; `id -u NAME` prints the number.

bursar.toml:7:1: [people] has no key `bob`
  7 | bob = …
    | ^^^
  Known keys: socket, uid:1000.
"#,
    );
}

#[test]
fn a_socket_where_nobody_can_reach_it() {
    operator_says(
        r#"
[people]
socket = "/d/run/people.sock"
"uid:1000" = ["finance"]
"#,
        r#"
bursar.toml:3:10: people.socket: /d/run/people.sock lies in the data directory, which only bursar's user can enter
  3 | socket = "/d/run/people.sock"
    |          ^^^^^^^^^^^^^^^^^^^^
  Write a path elsewhere, such as "/run/bursar/people.sock".
"#,
    );
}

#[test]
fn one_without_the_other() {
    for (text, way_out) in [
        ("[people]\n\"uid:1000\" = [\"finance\"]\n", "Add socket = "),
        ("[people]\nsocket = \"/run/people.sock\"\n", "Add a line for each user"),
        (
            "[people]\nsocket = \"people.sock\"\n\"uid:1\" = [\"finance\"]\n",
            "Write a path outside",
        ),
        (
            "[people]\nsocket = \"/run/../people.sock\"\n\"uid:1\" = [\"finance\"]\n",
            "Write a path outside",
        ),
    ] {
        let error = Config::parse("bursar.toml", text, Path::new("/d"))
            .expect_err(text)
            .to_string();
        assert!(error.contains(way_out), "{error}");
    }
    let text = "[people]\nsocket = \"/run/people.sock\"\n\"uid:1000\" = [\"finance\"]\n";
    let people = Config::parse("bursar.toml", text, Path::new("/d"))
        .unwrap()
        .people
        .unwrap();
    assert_eq!(people.socket, Path::new("/run/people.sock"));
    assert_eq!(
        (people.roles_of(1000), people.roles_of(0)),
        (&[Role::Finance][..], &[][..])
    );
    assert!(
        Config::parse("bursar.toml", "[people]\n", Path::new("/d"))
            .unwrap()
            .people
            .is_none()
    );
}
