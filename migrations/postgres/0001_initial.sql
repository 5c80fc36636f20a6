-- Times are milliseconds since the Unix epoch. Columns named *_json hold JSON text.

-- A submitted sweep. Its row is locked first by whoever changes one of its trials, so its counters, its event numbers
-- and its limits are always exact.
CREATE TABLE sweep (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    key TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    project TEXT NOT NULL,
    labels_json TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'paused', 'ended', 'cancelled')),
    created BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    objective_json TEXT NOT NULL,
    report_json TEXT NOT NULL,
    axes_json TEXT NOT NULL,
    -- 1: test images may choose, which every table of the sweep says.
    allow_test_selection BIGINT NOT NULL,
    -- The rule that ends trials early; NULL: none.
    early_stop_json TEXT,
    -- 1: trials that prune may share the training before it.
    share_prefix BIGINT NOT NULL,
    -- Which earlier results its trials take over.
    reuse TEXT NOT NULL CHECK (reuse IN ('never', 'same_code', 'same_config')),
    retry_json TEXT NOT NULL,
    checkpoint_json TEXT NOT NULL,
    -- Limits; NULL: none.
    max_running BIGINT,
    timeout_ms BIGINT,
    pause_after_failures BIGINT,
    pause_after_code_errors BIGINT,
    paused_because TEXT NOT NULL,
    configurations BIGINT NOT NULL,
    -- Configurations and trials that there are or that stages will open when all goes well. Trials that wait for their
    -- stage have no row yet; with those in each state they sum to `trials`.
    trials BIGINT NOT NULL,
    waiting BIGINT NOT NULL,
    queued BIGINT NOT NULL,
    running BIGINT NOT NULL,
    succeeded BIGINT NOT NULL,
    stopped BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    cancelled BIGINT NOT NULL,
    -- Trials that failed, not diverged, since the last success or resumption.
    failures BIGINT NOT NULL,
    last_seq BIGINT NOT NULL,
    -- When it was last leased from, by a clock that counts leases: of equals, who has waited longer is served.
    served BIGINT NOT NULL,
    CHECK (waiting >= 0 AND queued >= 0 AND running >= 0
           AND waiting + queued + running + succeeded + stopped + failed + cancelled = trials)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX sweep_name ON sweep (name, number);
CREATE INDEX sweep_active ON sweep (priority DESC, number) WHERE state = 'active';

-- What was submitted, word for word.
CREATE TABLE source (
    sweep BIGINT NOT NULL REFERENCES sweep (number),
    -- 0: as submitted; then one for each extension.
    revision BIGINT NOT NULL,
    file TEXT NOT NULL,
    overrides_json TEXT NOT NULL,
    client_version TEXT NOT NULL,
    git_commit TEXT NOT NULL,
    git_dirty BIGINT NOT NULL,
    PRIMARY KEY (sweep, revision)
);

-- What a worker must offer to run a trial.
CREATE TABLE need (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    backbone TEXT NOT NULL,
    task TEXT NOT NULL,
    -- In the order of the alphabet.
    splits_json TEXT NOT NULL,
    method TEXT NOT NULL,
    -- Of each GPU, in MiB; 0: any device.
    gpu_memory_mib BIGINT NOT NULL,
    -- In the order of the alphabet.
    labels_json TEXT NOT NULL,
    UNIQUE (backbone, task, splits_json, method, gpu_memory_mib, labels_json)
);

CREATE TABLE configuration (
    sweep BIGINT NOT NULL REFERENCES sweep (number),
    -- Place in the order of the file, from 1.
    number BIGINT NOT NULL,
    stage TEXT NOT NULL,
    block TEXT NOT NULL,
    hash TEXT NOT NULL,
    settings_json TEXT NOT NULL,
    recipe_json TEXT NOT NULL,
    epochs BIGINT NOT NULL,
    -- Learning rate of the recipe, and whether it is the written one × batch_size / 256.
    lr DOUBLE PRECISION NOT NULL,
    is_lr_scaled BIGINT NOT NULL,
    -- The configuration that was chosen to make this one; NULL: an axis, a block or `include` made it.
    parent BIGINT,
    -- Trials of the same scope are compared by early stopping; NULL: they run to the end.
    scope TEXT,
    bracket BIGINT NOT NULL,
    -- The configuration that `requeue` changed to make this one, for trials that had failed; NULL: it is the file's.
    changed_from BIGINT,
    -- 1: its stage has chosen again since, and not this one.
    superseded BIGINT NOT NULL DEFAULT 0,
    -- Stands for the training before pruning, and the epoch of it that is gone back to; NULL: it does not prune.
    prefix TEXT,
    rewind BIGINT,
    PRIMARY KEY (sweep, number),
    UNIQUE (sweep, stage, hash)
);
CREATE INDEX configuration_prefix ON configuration (sweep, prefix) WHERE prefix IS NOT NULL;

-- The stages of a sweep, from 0 in the order of the file.
CREATE TABLE stage (
    sweep BIGINT NOT NULL REFERENCES sweep (number),
    number BIGINT NOT NULL,
    name TEXT NOT NULL,
    seeds_json TEXT NOT NULL,
    -- 1: its trials are scored on test images.
    is_scored_on_test BIGINT NOT NULL,
    -- Of a stage that chooses: from which one, and what it makes of the chosen.
    parent BIGINT,
    opening_json TEXT,
    -- Of a first stage whose configurations are chosen while results come in: what its studies have in common.
    sampler_json TEXT,
    PRIMARY KEY (sweep, number),
    UNIQUE (sweep, name),
    CHECK ((parent IS NULL) = (opening_json IS NULL))
);

-- A group of configurations, among which `stage` chooses as soon as none of their trials is to come.
CREATE TABLE choice (
    sweep BIGINT NOT NULL REFERENCES sweep (number),
    stage BIGINT NOT NULL,
    number BIGINT NOT NULL,
    -- What the configurations have in common.
    key_json TEXT NOT NULL,
    -- Trials of the group that have not ended, those included that earlier stages will open.
    pending BIGINT NOT NULL,
    -- What it opens when all goes well.
    configurations BIGINT NOT NULL,
    trials BIGINT NOT NULL,
    -- 'failed': nothing in it could be chosen.
    state TEXT NOT NULL CHECK (state IN ('waiting', 'opened', 'failed', 'cancelled')),
    PRIMARY KEY (sweep, stage, number),
    UNIQUE (sweep, stage, key_json),
    CHECK (pending >= 0)
);
CREATE INDEX choice_due ON choice (sweep, stage, number) WHERE state = 'waiting' AND pending = 0;

-- Which groups a configuration belongs to.
CREATE TABLE member (
    sweep BIGINT NOT NULL,
    config BIGINT NOT NULL,
    stage BIGINT NOT NULL,
    choice BIGINT NOT NULL,
    PRIMARY KEY (sweep, config, stage),
    FOREIGN KEY (sweep, config) REFERENCES configuration (sweep, number),
    FOREIGN KEY (sweep, stage, choice) REFERENCES choice (sweep, stage, number)
);
CREATE INDEX member_choice ON member (sweep, stage, choice, config);

-- A space with a sampler of its own, which makes configurations one by one while results come in.
CREATE TABLE study (
    sweep BIGINT NOT NULL REFERENCES sweep (number),
    number BIGINT NOT NULL,
    -- What its configurations have in common.
    key_json TEXT NOT NULL,
    study_json TEXT NOT NULL,
    -- How many configurations it makes in all, and how many it has made.
    size BIGINT NOT NULL,
    made BIGINT NOT NULL,
    -- Trials of each.
    seeds BIGINT NOT NULL,
    -- What a worker must offer to run one of them, and whether others may need something else.
    need BIGINT NOT NULL REFERENCES need (id),
    varies BIGINT NOT NULL,
    -- Of a strategy that goes step by step: where it stood at the last suggestion.
    strategy_json TEXT,
    state TEXT NOT NULL CHECK (state IN ('open', 'done', 'cancelled')),
    PRIMARY KEY (sweep, number),
    UNIQUE (sweep, key_json),
    CHECK (made <= size AND (state <> 'open' OR made < size) AND (state <> 'done' OR made = size))
);
CREATE INDEX study_open ON study (sweep, made, number) WHERE state = 'open';

-- The configurations of a study, and where they lie in its space.
CREATE TABLE suggestion (
    sweep BIGINT NOT NULL,
    study BIGINT NOT NULL,
    config BIGINT NOT NULL,
    -- From 0, without gaps; NULL: it was not suggested, but is known all the same.
    number BIGINT,
    point_json TEXT NOT NULL,
    generation BIGINT,
    PRIMARY KEY (sweep, study, config),
    UNIQUE (sweep, study, number),
    FOREIGN KEY (sweep, study) REFERENCES study (sweep, number),
    FOREIGN KEY (sweep, config) REFERENCES configuration (sweep, number)
);

CREATE TABLE trial (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sweep BIGINT NOT NULL,
    config BIGINT NOT NULL,
    seed BIGINT NOT NULL,
    need BIGINT NOT NULL REFERENCES need (id),
    -- The trial whose tuned tensors it starts from; NULL: it starts from its seed.
    start_from BIGINT REFERENCES trial (id),
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'stopped', 'failed', 'cancelled')),
    -- Number of the latest attempt: the fencing token.
    attempt BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    interruptions BIGINT NOT NULL,
    -- Interruptions by which the worker was lost.
    lost BIGINT NOT NULL,
    -- The worker on which an attempt failed last.
    failed_on TEXT,
    epoch BIGINT NOT NULL,
    -- Of a queued trial.
    not_before BIGINT,
    -- Of a running one.
    worker TEXT,
    -- Of a failed one.
    class TEXT,
    message TEXT,
    -- Of a terminal one.
    ended BIGINT,
    UNIQUE (sweep, config, seed),
    FOREIGN KEY (sweep, config) REFERENCES configuration (sweep, number),
    CHECK ((state = 'queued') = (not_before IS NOT NULL)),
    CHECK ((state = 'running') = (worker IS NOT NULL)),
    CHECK ((state = 'failed') = (class IS NOT NULL)),
    CHECK ((state IN ('succeeded', 'stopped', 'failed', 'cancelled')) = (ended IS NOT NULL))
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
-- The claim: in the order of ids within a sweep and a need, whatever else the table holds.
CREATE INDEX trial_queued ON trial (sweep, need, id) WHERE state = 'queued';
CREATE INDEX trial_sweep ON trial (sweep, id);

-- The training before pruning that trials of a sweep have in common, once one of them has kept it.
CREATE TABLE prefix (
    sweep BIGINT NOT NULL REFERENCES sweep (number),
    hash TEXT NOT NULL,
    seed BIGINT NOT NULL,
    -- The trial whose tensors they start from; 0: none.
    start_from BIGINT NOT NULL,
    -- A checkpoint of its end; NULL: it could not be kept, and each trains for itself.
    url TEXT,
    PRIMARY KEY (sweep, hash, seed, start_from)
);

CREATE TABLE worker (
    id TEXT PRIMARY KEY,
    instance TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    capabilities_json TEXT NOT NULL,
    slots BIGINT NOT NULL,
    registered BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('live', 'draining', 'lost')),
    -- Attempts in a row that failed on it, since when, and until when it gets no trial for that.
    strikes BIGINT NOT NULL,
    failing_since BIGINT,
    rests_until BIGINT NOT NULL,
    -- Why it gets no trials at all, until it is released.
    quarantined TEXT
);

-- Trials that failed on a worker in its current row of failures, and then succeeded elsewhere.
CREATE TABLE blame (
    worker TEXT NOT NULL REFERENCES worker (id),
    trial BIGINT NOT NULL REFERENCES trial (id),
    PRIMARY KEY (worker, trial)
);

-- Trials of a sweep that failed by a code error, by how the error reads; forgotten when the sweep is resumed.
CREATE TABLE code_error (
    sweep BIGINT NOT NULL REFERENCES sweep (number),
    fingerprint TEXT NOT NULL,
    trial BIGINT NOT NULL REFERENCES trial (id),
    PRIMARY KEY (sweep, fingerprint, trial)
);

CREATE TABLE attempt (
    trial BIGINT NOT NULL REFERENCES trial (id),
    number BIGINT NOT NULL,
    worker TEXT NOT NULL REFERENCES worker (id),
    -- The request that leased it: a repetition gets the same attempts.
    request TEXT NOT NULL,
    started BIGINT NOT NULL,
    ended BIGINT,
    -- How it ended; NULL while it runs.
    how TEXT,
    class TEXT,
    message TEXT,
    -- Of the call that ended it: a repetition is told so.
    digest TEXT,
    PRIMARY KEY (trial, number)
);
CREATE INDEX attempt_request ON attempt (worker, request);

-- One row per running trial, renewed all the time: narrow, and without an index on `until`.
CREATE TABLE lease (
    trial BIGINT PRIMARY KEY REFERENCES trial (id),
    attempt BIGINT NOT NULL,
    worker TEXT NOT NULL,
    until BIGINT NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
-- How much a worker holds.
CREATE INDEX lease_worker ON lease (worker);

-- The latest checkpoint of a trial, by the attempt that held it. It stays when the trial ends.
CREATE TABLE checkpoint (
    trial BIGINT PRIMARY KEY REFERENCES trial (id),
    attempt BIGINT NOT NULL,
    url TEXT NOT NULL
);

-- The one accepted result of a trial.
CREATE TABLE result (
    trial BIGINT PRIMARY KEY REFERENCES trial (id),
    attempt BIGINT NOT NULL,
    -- Score by the sweep's objective; NULL: the objective's metric is missing or not finite.
    objective DOUBLE PRECISION,
    metrics_json TEXT NOT NULL,
    -- Where the tuned tensors lie; NULL: nowhere.
    artifact TEXT,
    -- Scores of pruned prompts, and which stay; NULL: nothing was pruned.
    pruning_json TEXT,
    digest TEXT NOT NULL,
    -- The trial that the result was taken over from; NULL: it is the attempt's own.
    origin BIGINT REFERENCES trial (id)
);

-- The first result of each recipe and seed, by what the run read and what computed it, for later trials to take over.
CREATE TABLE reusable (
    hash TEXT NOT NULL,
    seed BIGINT NOT NULL,
    inputs TEXT NOT NULL,
    code TEXT NOT NULL,
    trial BIGINT NOT NULL REFERENCES trial (id),
    PRIMARY KEY (hash, seed, inputs, code)
);

-- Results of attempts that had lost their trial: kept to be looked at, and never read by anything else.
CREATE TABLE orphan (
    trial BIGINT NOT NULL REFERENCES trial (id),
    attempt BIGINT NOT NULL,
    digest TEXT NOT NULL,
    worker TEXT NOT NULL,
    at BIGINT NOT NULL,
    -- Why the result was refused.
    reason TEXT NOT NULL,
    metrics_json TEXT NOT NULL,
    PRIMARY KEY (trial, attempt, digest)
);

CREATE TABLE point (
    trial BIGINT NOT NULL REFERENCES trial (id),
    attempt BIGINT NOT NULL,
    name TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    -- NULL: not finite.
    value DOUBLE PRECISION,
    PRIMARY KEY (trial, attempt, name, epoch)
);

-- How trials stood when they had come so far, among those of their scope; more is better.
CREATE TABLE rung (
    sweep BIGINT NOT NULL REFERENCES sweep (number),
    scope TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    trial BIGINT NOT NULL REFERENCES trial (id),
    value DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (sweep, scope, epoch, trial)
);

-- Numbered without gaps within a sweep, from 1.
CREATE TABLE event (
    sweep BIGINT NOT NULL REFERENCES sweep (number),
    seq BIGINT NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    -- 0: the sweep itself.
    trial BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    worker TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    metrics_json TEXT,
    class TEXT,
    message TEXT NOT NULL,
    PRIMARY KEY (sweep, seq)
);
