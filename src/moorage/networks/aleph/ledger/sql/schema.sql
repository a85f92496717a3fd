-- Messages that wait, hold, or are forgotten. Of one hash there is at most one that holds or is forgotten, and then
-- none that waits; several may wait, for whoever sends a content first must not keep its owner out.
CREATE TABLE messages (
  n INTEGER PRIMARY KEY AUTOINCREMENT, -- the order in which they were received; no number is used twice
  item_hash TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('pending', 'processed', 'forgotten')),
  received REAL NOT NULL,
  chain TEXT NOT NULL,
  sender TEXT NOT NULL COLLATE NOCASE,
  type TEXT NOT NULL,
  channel TEXT,
  signature TEXT NOT NULL,
  time REAL NOT NULL,
  item_type TEXT NOT NULL,
  item_content TEXT, -- NULL for stored contents, and once it is forgotten
  content TEXT, -- the text of a stored content, once it is here
  size INTEGER,
  unsigned INTEGER NOT NULL, -- loaded by the operator, with no signature that was verified
  program TEXT, -- the program through whose guest API it came
  -- what the content says
  role TEXT, -- the type by which the rules know it: a POST may hold a program
  owner TEXT COLLATE NOCASE,
  made REAL,
  ref TEXT, -- the message that it amends, updates or replaces, or a name that the owner chose
  kind TEXT,
  key TEXT,
  file TEXT,
  triggered INTEGER NOT NULL DEFAULT 0, -- a program that something else than a request starts
  -- what became of it
  code INTEGER, -- why it waits
  forgotten_by TEXT
) STRICT;

CREATE INDEX messages_by_hash ON messages (item_hash);
CREATE UNIQUE INDEX messages_settled ON messages (item_hash) WHERE status <> 'pending';
CREATE INDEX messages_by_time ON messages (status, time, n);
CREATE INDEX messages_by_sender ON messages (sender, time);
CREATE INDEX messages_by_owner ON messages (owner, role, made);
CREATE INDEX messages_by_ref ON messages (ref) WHERE ref IS NOT NULL;
CREATE INDEX messages_by_key ON messages (key, owner) WHERE key IS NOT NULL;
CREATE INDEX messages_by_file ON messages (file) WHERE file IS NOT NULL;
CREATE INDEX messages_triggered ON messages (n) WHERE triggered;
CREATE INDEX messages_by_role ON messages (role, status);

CREATE TABLE tags (
  tag TEXT NOT NULL,
  n INTEGER NOT NULL REFERENCES messages (n) ON DELETE CASCADE,
  PRIMARY KEY (tag, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_by_message ON tags (n);

-- References of programs to what they cannot do without.
CREATE TABLE uses (
  ref TEXT NOT NULL,
  n INTEGER NOT NULL REFERENCES messages (n) ON DELETE CASCADE,
  PRIMARY KEY (ref, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX uses_by_message ON uses (n);

-- What pending messages wait for: hashes of messages and files, keys of aggregates.
CREATE TABLE awaited (
  name TEXT NOT NULL,
  n INTEGER NOT NULL REFERENCES messages (n) ON DELETE CASCADE,
  PRIMARY KEY (name, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX awaited_by_message ON awaited (n);

-- The latest refusal of a hash, in a table of its own: it can neither displace nor keep out a message that holds.
CREATE TABLE rejections (
  n INTEGER PRIMARY KEY AUTOINCREMENT,
  item_hash TEXT NOT NULL UNIQUE,
  received REAL NOT NULL,
  code INTEGER NOT NULL,
  details TEXT NOT NULL,
  message TEXT NOT NULL
) STRICT;

CREATE TABLE files (
  hash TEXT PRIMARY KEY,
  digest TEXT NOT NULL, -- of the blob that holds the bytes
  size INTEGER NOT NULL,
  alias INTEGER NOT NULL, -- the operator says that the file is meant by this name, which is no hash of it
  kept INTEGER NOT NULL -- it came without a message, so that none takes it away when it is forgotten
) STRICT, WITHOUT ROWID;

CREATE TABLE deliveries (
  n INTEGER PRIMARY KEY,
  message TEXT NOT NULL,
  program TEXT NOT NULL,
  UNIQUE (message, program)
) STRICT;
CREATE INDEX deliveries_by_program ON deliveries (program);

CREATE TABLE runs (
  n INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL UNIQUE,
  item_hash TEXT NOT NULL,
  trigger TEXT NOT NULL,
  started REAL NOT NULL,
  ended REAL,
  status INTEGER,
  refs TEXT NOT NULL,
  request TEXT,
  response TEXT,
  export TEXT
) STRICT;

PRAGMA user_version = 1;
