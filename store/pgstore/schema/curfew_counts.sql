-- What happened in an account in an hour, as a number.
CREATE TABLE curfew_counts (
    account bytea  NOT NULL,
    hour    bigint NOT NULL, -- since 1970
    name    bytea  NOT NULL,
    n       bigint NOT NULL,
    PRIMARY KEY (account, hour, name)
);
