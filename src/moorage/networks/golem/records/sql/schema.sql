-- Times are Unix seconds. JSON columns hold JSON text. `n` is the order in which rows were made.

CREATE TABLE tasks (
  n INTEGER PRIMARY KEY AUTOINCREMENT, -- no number is used twice
  id TEXT NOT NULL UNIQUE, -- of the task's job
  task_id TEXT NOT NULL, -- by which the app knows it
  app_id TEXT NOT NULL,
  app_digest TEXT NOT NULL,
  name TEXT NOT NULL,
  owner TEXT NOT NULL,
  status TEXT NOT NULL,
  created_at REAL NOT NULL,
  started_at REAL,
  deadline REAL,
  updated_at REAL NOT NULL,
  creation TEXT NOT NULL CHECK (creation IN ('unsent', 'sent', 'replied')),
  creations INTEGER NOT NULL,
  env_id TEXT,
  prerequisites TEXT,
  min_memory INTEGER NOT NULL,
  restarts INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  failures_in_row INTEGER NOT NULL,
  losses_in_row INTEGER NOT NULL,
  assigned INTEGER NOT NULL,
  status_message TEXT,
  publish_to TEXT,
  published INTEGER NOT NULL,
  stale_outputs TEXT NOT NULL,
  restarted_as TEXT
) STRICT;

CREATE INDEX tasks_by_start ON tasks (coalesce(started_at, created_at));
CREATE INDEX tasks_by_owner ON tasks (owner, coalesce(started_at, created_at));
CREATE INDEX tasks_unfinished ON tasks (n) WHERE status IN ('creating', 'waiting', 'computing');

-- What never changes and may be large, apart from what changes with every subtask: an update writes the whole row.
CREATE TABLE files (
  task INTEGER PRIMARY KEY REFERENCES tasks (n) ON DELETE CASCADE,
  file TEXT NOT NULL
) STRICT;

-- NextSubtask was, or is about to be, sent, and no reply is known: these are no subtasks yet, and may never be.
CREATE TABLE asked (
  id TEXT PRIMARY KEY,
  task TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
  slot INTEGER NOT NULL,
  node_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX asked_by_task ON asked (task);

CREATE TABLE subtasks (
  n INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  task TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
  number INTEGER NOT NULL,
  slots TEXT NOT NULL,
  node_id TEXT NOT NULL,
  status TEXT NOT NULL,
  parameters TEXT NOT NULL,
  resources TEXT NOT NULL,
  jobs TEXT NOT NULL,
  started_at REAL NOT NULL,
  deadline REAL,
  finished_at REAL,
  file TEXT,
  size INTEGER,
  digest TEXT,
  verdict INTEGER,
  reason TEXT NOT NULL,
  code TEXT,
  parked INTEGER NOT NULL,
  verifications INTEGER NOT NULL,
  owed INTEGER NOT NULL,
  discard TEXT NOT NULL CHECK (discard IN ('unsent', 'sent', 'replied')),
  usage TEXT,
  UNIQUE (task, number)
) STRICT;

CREATE INDEX subtasks_by_status ON subtasks (task, status);
CREATE INDEX subtasks_owed ON subtasks (task) WHERE owed;
CREATE INDEX subtasks_discarding ON subtasks (task) WHERE discard = 'sent';

CREATE TABLE counts (
  task TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
  status TEXT NOT NULL,
  count INTEGER NOT NULL,
  PRIMARY KEY (task, status)
) STRICT, WITHOUT ROWID;

-- A subtask goes with its task only, and the counts do, too.
CREATE TRIGGER subtasks_counted_new AFTER INSERT ON subtasks BEGIN
  INSERT INTO counts VALUES (new.task, new.status, 1)
  ON CONFLICT (task, status) DO UPDATE SET count = count + 1;
END;

CREATE TRIGGER subtasks_counted_change AFTER UPDATE OF status ON subtasks BEGIN
  UPDATE counts SET count = count - 1 WHERE task = old.task AND status = old.status;
  INSERT INTO counts VALUES (new.task, new.status, 1)
  ON CONFLICT (task, status) DO UPDATE SET count = count + 1;
END;

-- Files of the results, each with every subtask during whose verification it appeared or changed.
CREATE TABLE attributions (
  n INTEGER PRIMARY KEY,
  subtask TEXT NOT NULL REFERENCES subtasks (id) ON DELETE CASCADE,
  task TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
  path TEXT NOT NULL,
  UNIQUE (subtask, path)
) STRICT;

CREATE INDEX attributions_by_task ON attributions (task);

CREATE TABLE benchmarks (
  env_id TEXT NOT NULL,
  prereq_hash TEXT NOT NULL,
  score REAL NOT NULL,
  at REAL NOT NULL,
  PRIMARY KEY (env_id, prereq_hash)
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 1;
