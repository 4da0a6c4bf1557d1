-- One row says of one subject that all its sessions ended that began before.
CREATE TABLE curfew_fences (
    subject  bytea  NOT NULL PRIMARY KEY, -- its term, as in curfew_terms
    at       bigint NOT NULL,             -- microseconds since 1970
    revision bigint NOT NULL,
    due      bigint,                      -- when a sweeper has to look at it, as at; NULL: never
    document bytea  NOT NULL
);

CREATE INDEX curfew_fences_due ON curfew_fences (due) WHERE due IS NOT NULL;
