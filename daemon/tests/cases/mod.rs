//! The cases, by what they promise.

mod deaths;
mod hostile;
mod life;
mod many;
mod service;

/// Every case with its name.
pub const ALL: &[(&str, fn())] = &[
    (
        "hello_opens_a_session_that_computes",
        life::hello_opens_a_session_that_computes,
    ),
    (
        "a_request_sent_twice_is_answered_twice_and_done_once",
        life::a_request_sent_twice_is_answered_twice_and_done_once,
    ),
    (
        "limits_are_refused_with_their_numbers",
        life::limits_are_refused_with_their_numbers,
    ),
    (
        "class_and_weight_go_down_only",
        life::class_and_weight_go_down_only,
    ),
    (
        "stat_shows_a_tenant_its_own_sessions_alone",
        life::stat_shows_a_tenant_its_own_sessions_alone,
    ),
    (
        "the_administrator_can_end_a_session",
        life::the_administrator_can_end_a_session,
    ),
    (
        "sigterm_drains_and_ends_with_0",
        life::sigterm_drains_and_ends_with_0,
    ),
    (
        "a_drain_that_takes_too_long_ends_all_the_same",
        life::a_drain_that_takes_too_long_ends_all_the_same,
    ),
    (
        "sighup_reads_the_configuration_again",
        life::sighup_reads_the_configuration_again,
    ),
    (
        "an_unused_daemon_ends_when_told_so",
        life::an_unused_daemon_ends_when_told_so,
    ),
    (
        "bad_messages_are_answered_and_hurt_nobody",
        hostile::bad_messages_are_answered_and_hurt_nobody,
    ),
    (
        "a_client_that_never_reads_loses_its_session_alone",
        hostile::a_client_that_never_reads_loses_its_session_alone,
    ),
    (
        "a_tail_that_jumps_ends_one_session",
        hostile::a_tail_that_jumps_ends_one_session,
    ),
    (
        "client_messages_do_not_flood_the_log",
        hostile::client_messages_do_not_flood_the_log,
    ),
    (
        "each_process_is_confined",
        hostile::each_process_is_confined,
    ),
    (
        "a_brokers_death_is_not_noticed",
        deaths::a_brokers_death_is_not_noticed,
    ),
    (
        "an_engines_death_begins_an_epoch",
        deaths::an_engines_death_begins_an_epoch,
    ),
    (
        "hello_survives_a_broker_that_dies",
        deaths::hello_survives_a_broker_that_dies,
    ),
    ("both_die_together", deaths::both_die_together),
    (
        "a_tenant_of_its_own_engine_gets_one_and_gives_it_back",
        deaths::a_tenant_of_its_own_engine_gets_one_and_gives_it_back,
    ),
    (
        "the_service_manager_passes_sockets_and_is_told",
        service::the_service_manager_passes_sockets_and_is_told,
    ),
    (
        "killed_clients_leave_nothing_behind",
        many::killed_clients_leave_nothing_behind,
    ),
    (
        "a_thousand_sessions_connect",
        many::a_thousand_sessions_connect,
    ),
];
