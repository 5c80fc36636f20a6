-- Times are milliseconds since the Unix epoch. Columns named *_json hold JSON text.

-- A submitted sweep. Its row is locked first by whoever changes one of its trials, so its counters, its event numbers
-- and its limits are always exact.
CREATE TABLE sweep (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    key TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    project TEXT NOT NULL,
    labels_json TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'paused', 'ended', 'cancelled')),
    created INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    objective_json TEXT NOT NULL,
    report_json TEXT NOT NULL,
    axes_json TEXT NOT NULL,
    -- 1: test images may choose, which every table of the sweep says.
    allow_test_selection INTEGER NOT NULL,
    -- The rule that ends trials early; NULL: none.
    early_stop_json TEXT,
    -- 1: trials that prune may share the training before it.
    share_prefix INTEGER NOT NULL,
    -- Which earlier results its trials take over.
    reuse TEXT NOT NULL CHECK (reuse IN ('never', 'same_code', 'same_config')),
    retry_json TEXT NOT NULL,
    checkpoint_json TEXT NOT NULL,
    -- Limits; NULL: none.
    max_running INTEGER,
    timeout_ms INTEGER,
    pause_after_failures INTEGER,
    pause_after_code_errors INTEGER,
    paused_because TEXT NOT NULL,
    configurations INTEGER NOT NULL,
    -- Configurations and trials that there are or that stages will open when all goes well. Trials that wait for their
    -- stage have no row yet; with those in each state they sum to `trials`.
    trials INTEGER NOT NULL,
    waiting INTEGER NOT NULL,
    queued INTEGER NOT NULL,
    running INTEGER NOT NULL,
    succeeded INTEGER NOT NULL,
    stopped INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    -- Trials that failed, not diverged, since the last success or resumption.
    failures INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    -- When it was last leased from, by a clock that counts leases: of equals, who has waited longer is served.
    served INTEGER NOT NULL,
    CHECK (waiting >= 0 AND queued >= 0 AND running >= 0
           AND waiting + queued + running + succeeded + stopped + failed + cancelled = trials)
);
CREATE INDEX sweep_name ON sweep (name, number);
CREATE INDEX sweep_active ON sweep (priority DESC, number) WHERE state = 'active';

-- What was submitted, word for word.
CREATE TABLE source (
    sweep INTEGER NOT NULL REFERENCES sweep (number),
    -- 0: as submitted; then one for each extension.
    revision INTEGER NOT NULL,
    file TEXT NOT NULL,
    overrides_json TEXT NOT NULL,
    client_version TEXT NOT NULL,
    git_commit TEXT NOT NULL,
    git_dirty INTEGER NOT NULL,
    PRIMARY KEY (sweep, revision)
);

-- What a worker must offer to run a trial.
CREATE TABLE need (
    id INTEGER PRIMARY KEY,
    backbone TEXT NOT NULL,
    task TEXT NOT NULL,
    -- In the order of the alphabet.
    splits_json TEXT NOT NULL,
    method TEXT NOT NULL,
    -- Of each GPU, in MiB; 0: any device.
    gpu_memory_mib INTEGER NOT NULL,
    -- In the order of the alphabet.
    labels_json TEXT NOT NULL,
    UNIQUE (backbone, task, splits_json, method, gpu_memory_mib, labels_json)
);

CREATE TABLE configuration (
    sweep INTEGER NOT NULL REFERENCES sweep (number),
    -- Place in the order of the file, from 1.
    number INTEGER NOT NULL,
    stage TEXT NOT NULL,
    block TEXT NOT NULL,
    hash TEXT NOT NULL,
    settings_json TEXT NOT NULL,
    recipe_json TEXT NOT NULL,
    epochs INTEGER NOT NULL,
    -- Learning rate of the recipe, and whether it is the written one × batch_size / 256.
    lr REAL NOT NULL,
    is_lr_scaled INTEGER NOT NULL,
    -- The configuration that was chosen to make this one; NULL: an axis, a block or `include` made it.
    parent INTEGER,
    -- Trials of the same scope are compared by early stopping; NULL: they run to the end.
    scope TEXT,
    bracket INTEGER NOT NULL,
    -- The configuration that `requeue` changed to make this one, for trials that had failed; NULL: it is the file's.
    changed_from INTEGER,
    -- 1: its stage has chosen again since, and not this one.
    superseded INTEGER NOT NULL DEFAULT 0,
    -- Stands for the training before pruning, and the epoch of it that is gone back to; NULL: it does not prune.
    prefix TEXT,
    rewind INTEGER,
    PRIMARY KEY (sweep, number),
    UNIQUE (sweep, stage, hash)
);
CREATE INDEX configuration_prefix ON configuration (sweep, prefix) WHERE prefix IS NOT NULL;

-- The stages of a sweep, from 0 in the order of the file.
CREATE TABLE stage (
    sweep INTEGER NOT NULL REFERENCES sweep (number),
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    seeds_json TEXT NOT NULL,
    -- 1: its trials are scored on test images.
    is_scored_on_test INTEGER NOT NULL,
    -- Of a stage that chooses: from which one, and what it makes of the chosen.
    parent INTEGER,
    opening_json TEXT,
    -- Of a first stage whose configurations are chosen while results come in: what its studies have in common.
    sampler_json TEXT,
    PRIMARY KEY (sweep, number),
    UNIQUE (sweep, name),
    CHECK ((parent IS NULL) = (opening_json IS NULL))
);

-- A group of configurations, among which `stage` chooses as soon as none of their trials is to come.
CREATE TABLE choice (
    sweep INTEGER NOT NULL REFERENCES sweep (number),
    stage INTEGER NOT NULL,
    number INTEGER NOT NULL,
    -- What the configurations have in common.
    key_json TEXT NOT NULL,
    -- Trials of the group that have not ended, those included that earlier stages will open.
    pending INTEGER NOT NULL,
    -- What it opens when all goes well.
    configurations INTEGER NOT NULL,
    trials INTEGER NOT NULL,
    -- 'failed': nothing in it could be chosen.
    state TEXT NOT NULL CHECK (state IN ('waiting', 'opened', 'failed', 'cancelled')),
    PRIMARY KEY (sweep, stage, number),
    UNIQUE (sweep, stage, key_json),
    CHECK (pending >= 0)
);
CREATE INDEX choice_due ON choice (sweep, stage, number) WHERE state = 'waiting' AND pending = 0;

-- Which groups a configuration belongs to.
CREATE TABLE member (
    sweep INTEGER NOT NULL,
    config INTEGER NOT NULL,
    stage INTEGER NOT NULL,
    choice INTEGER NOT NULL,
    PRIMARY KEY (sweep, config, stage),
    FOREIGN KEY (sweep, config) REFERENCES configuration (sweep, number),
    FOREIGN KEY (sweep, stage, choice) REFERENCES choice (sweep, stage, number)
);
CREATE INDEX member_choice ON member (sweep, stage, choice, config);

-- A space with a sampler of its own, which makes configurations one by one while results come in.
CREATE TABLE study (
    sweep INTEGER NOT NULL REFERENCES sweep (number),
    number INTEGER NOT NULL,
    -- What its configurations have in common.
    key_json TEXT NOT NULL,
    study_json TEXT NOT NULL,
    -- How many configurations it makes in all, and how many it has made.
    size INTEGER NOT NULL,
    made INTEGER NOT NULL,
    -- Trials of each.
    seeds INTEGER NOT NULL,
    -- What a worker must offer to run one of them, and whether others may need something else.
    need INTEGER NOT NULL REFERENCES need (id),
    varies INTEGER NOT NULL,
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
    sweep INTEGER NOT NULL,
    study INTEGER NOT NULL,
    config INTEGER NOT NULL,
    -- From 0, without gaps; NULL: it was not suggested, but is known all the same.
    number INTEGER,
    point_json TEXT NOT NULL,
    generation INTEGER,
    PRIMARY KEY (sweep, study, config),
    UNIQUE (sweep, study, number),
    FOREIGN KEY (sweep, study) REFERENCES study (sweep, number),
    FOREIGN KEY (sweep, config) REFERENCES configuration (sweep, number)
);

CREATE TABLE trial (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sweep INTEGER NOT NULL,
    config INTEGER NOT NULL,
    seed INTEGER NOT NULL,
    need INTEGER NOT NULL REFERENCES need (id),
    -- The trial whose tuned tensors it starts from; NULL: it starts from its seed.
    start_from INTEGER REFERENCES trial (id),
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'stopped', 'failed', 'cancelled')),
    -- Number of the latest attempt: the fencing token.
    attempt INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    interruptions INTEGER NOT NULL,
    -- Interruptions by which the worker was lost.
    lost INTEGER NOT NULL,
    -- The worker on which an attempt failed last.
    failed_on TEXT,
    epoch INTEGER NOT NULL,
    -- Of a queued trial.
    not_before INTEGER,
    -- Of a running one.
    worker TEXT,
    -- Of a failed one.
    class TEXT,
    message TEXT,
    -- Of a terminal one.
    ended INTEGER,
    UNIQUE (sweep, config, seed),
    FOREIGN KEY (sweep, config) REFERENCES configuration (sweep, number),
    CHECK ((state = 'queued') = (not_before IS NOT NULL)),
    CHECK ((state = 'running') = (worker IS NOT NULL)),
    CHECK ((state = 'failed') = (class IS NOT NULL)),
    CHECK ((state IN ('succeeded', 'stopped', 'failed', 'cancelled')) = (ended IS NOT NULL))
);
-- The claim: in the order of ids within a sweep and a need, whatever else the table holds.
CREATE INDEX trial_queued ON trial (sweep, need, id) WHERE state = 'queued';
CREATE INDEX trial_sweep ON trial (sweep, id);

-- The training before pruning that trials of a sweep have in common, once one of them has kept it.
CREATE TABLE prefix (
    sweep INTEGER NOT NULL REFERENCES sweep (number),
    hash TEXT NOT NULL,
    seed INTEGER NOT NULL,
    -- The trial whose tensors they start from; 0: none.
    start_from INTEGER NOT NULL,
    -- A checkpoint of its end; NULL: it could not be kept, and each trains for itself.
    url TEXT,
    PRIMARY KEY (sweep, hash, seed, start_from)
) WITHOUT ROWID;

CREATE TABLE worker (
    id TEXT PRIMARY KEY,
    instance TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    capabilities_json TEXT NOT NULL,
    slots INTEGER NOT NULL,
    registered INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('live', 'draining', 'lost')),
    -- Attempts in a row that failed on it, since when, and until when it gets no trial for that.
    strikes INTEGER NOT NULL,
    failing_since INTEGER,
    rests_until INTEGER NOT NULL,
    -- Why it gets no trials at all, until it is released.
    quarantined TEXT
);

-- Trials that failed on a worker in its current row of failures, and then succeeded elsewhere.
CREATE TABLE blame (
    worker TEXT NOT NULL REFERENCES worker (id),
    trial INTEGER NOT NULL REFERENCES trial (id),
    PRIMARY KEY (worker, trial)
) WITHOUT ROWID;

-- Trials of a sweep that failed by a code error, by how the error reads; forgotten when the sweep is resumed.
CREATE TABLE code_error (
    sweep INTEGER NOT NULL REFERENCES sweep (number),
    fingerprint TEXT NOT NULL,
    trial INTEGER NOT NULL REFERENCES trial (id),
    PRIMARY KEY (sweep, fingerprint, trial)
) WITHOUT ROWID;

CREATE TABLE attempt (
    trial INTEGER NOT NULL REFERENCES trial (id),
    number INTEGER NOT NULL,
    worker TEXT NOT NULL REFERENCES worker (id),
    -- The request that leased it: a repetition gets the same attempts.
    request TEXT NOT NULL,
    started INTEGER NOT NULL,
    ended INTEGER,
    -- How it ended; NULL while it runs.
    how TEXT,
    class TEXT,
    message TEXT,
    -- Of the call that ended it: a repetition is told so.
    digest TEXT,
    PRIMARY KEY (trial, number)
) WITHOUT ROWID;
CREATE INDEX attempt_request ON attempt (worker, request);

-- One row per running trial, renewed all the time: narrow, and without an index on `until`.
CREATE TABLE lease (
    trial INTEGER PRIMARY KEY REFERENCES trial (id),
    attempt INTEGER NOT NULL,
    worker TEXT NOT NULL,
    until INTEGER NOT NULL
);
-- How much a worker holds.
CREATE INDEX lease_worker ON lease (worker);

-- The latest checkpoint of a trial, by the attempt that held it. It stays when the trial ends.
CREATE TABLE checkpoint (
    trial INTEGER PRIMARY KEY REFERENCES trial (id),
    attempt INTEGER NOT NULL,
    url TEXT NOT NULL
);

-- The one accepted result of a trial.
CREATE TABLE result (
    trial INTEGER PRIMARY KEY REFERENCES trial (id),
    attempt INTEGER NOT NULL,
    -- Score by the sweep's objective; NULL: the objective's metric is missing or not finite.
    objective REAL,
    metrics_json TEXT NOT NULL,
    -- Where the tuned tensors lie; NULL: nowhere.
    artifact TEXT,
    -- Scores of pruned prompts, and which stay; NULL: nothing was pruned.
    pruning_json TEXT,
    digest TEXT NOT NULL,
    -- The trial that the result was taken over from; NULL: it is the attempt's own.
    origin INTEGER REFERENCES trial (id)
);

-- The first result of each recipe and seed, by what the run read and what computed it, for later trials to take over.
CREATE TABLE reusable (
    hash TEXT NOT NULL,
    seed INTEGER NOT NULL,
    inputs TEXT NOT NULL,
    code TEXT NOT NULL,
    trial INTEGER NOT NULL REFERENCES trial (id),
    PRIMARY KEY (hash, seed, inputs, code)
) WITHOUT ROWID;

-- Results of attempts that had lost their trial: kept to be looked at, and never read by anything else.
CREATE TABLE orphan (
    trial INTEGER NOT NULL REFERENCES trial (id),
    attempt INTEGER NOT NULL,
    digest TEXT NOT NULL,
    worker TEXT NOT NULL,
    at INTEGER NOT NULL,
    -- Why the result was refused.
    reason TEXT NOT NULL,
    metrics_json TEXT NOT NULL,
    PRIMARY KEY (trial, attempt, digest)
) WITHOUT ROWID;

CREATE TABLE point (
    trial INTEGER NOT NULL REFERENCES trial (id),
    attempt INTEGER NOT NULL,
    name TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    -- NULL: not finite.
    value REAL,
    PRIMARY KEY (trial, attempt, name, epoch)
) WITHOUT ROWID;

-- How trials stood when they had come so far, among those of their scope; more is better.
CREATE TABLE rung (
    sweep INTEGER NOT NULL REFERENCES sweep (number),
    scope TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    trial INTEGER NOT NULL REFERENCES trial (id),
    value REAL NOT NULL,
    PRIMARY KEY (sweep, scope, epoch, trial)
) WITHOUT ROWID;

-- Numbered without gaps within a sweep, from 1.
CREATE TABLE event (
    sweep INTEGER NOT NULL REFERENCES sweep (number),
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    -- 0: the sweep itself.
    trial INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    worker TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    metrics_json TEXT,
    class TEXT,
    message TEXT NOT NULL,
    PRIMARY KEY (sweep, seq)
) WITHOUT ROWID;
