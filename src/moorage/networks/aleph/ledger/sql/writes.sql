-- name: insert
INSERT INTO messages
  (n, item_hash, status, received, chain, sender, type, channel, signature, time, item_type, item_content, content,
   size, unsigned, program, role, owner, made, ref, kind, key, file, triggered, code)
VALUES
  (:n, :item_hash, :status, :received, :chain, :sender, :type, :channel, :signature, :time, :item_type, :item_content,
   :content, :size, :unsigned, :program, :role, :owner, :made, :ref, :kind, :key, :file, :triggered, :code)

-- name: drop
DELETE FROM messages WHERE n = ?

-- name: drop_others
DELETE FROM messages WHERE item_hash = ?

-- name: drop_rejection
DELETE FROM rejections WHERE item_hash = ?

-- name: tag
INSERT OR IGNORE INTO tags (tag, n) VALUES (?, ?)

-- name: use
INSERT OR IGNORE INTO uses (ref, n) VALUES (?, ?)

-- name: await
INSERT OR IGNORE INTO awaited (name, n) VALUES (?, ?)

-- name: known
SELECT 1 FROM messages WHERE item_hash = ?

-- name: reject
INSERT OR REPLACE INTO rejections (item_hash, received, code, details, message) VALUES (?, ?, ?, ?, ?)

-- name: drop_old_rejections
DELETE FROM rejections WHERE n <= (SELECT max(n) FROM rejections) - ?

-- name: forget
UPDATE messages
SET status = 'forgotten', forgotten_by = :by, item_content = NULL, content = NULL, ref = NULL, kind = NULL, key = NULL,
  file = NULL
WHERE item_hash = :item_hash AND status = 'processed'
RETURNING n

-- name: untag
DELETE FROM tags WHERE n = ?

-- name: unuse
DELETE FROM uses WHERE n = ?

-- name: drop_file
DELETE FROM files
WHERE hash = :hash AND NOT kept
  AND NOT EXISTS (SELECT 1 FROM messages WHERE file = :hash AND status <> 'forgotten')
  AND NOT EXISTS (SELECT 1 FROM uses WHERE ref = :hash)

-- name: add_file
INSERT INTO files (hash, digest, size, alias, kept) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (hash) DO UPDATE SET
  digest = iif(files.alias, excluded.digest, files.digest),
  size = iif(files.alias, excluded.size, files.size),
  alias = files.alias AND excluded.alias,
  kept = files.kept OR excluded.kept

-- name: deliver
INSERT OR IGNORE INTO deliveries (message, program) VALUES (?, ?)

-- name: delivered
DELETE FROM deliveries WHERE message = ? AND program = ?

-- name: undeliver
DELETE FROM deliveries WHERE message = :item_hash OR program = :item_hash

-- name: add_run
INSERT OR REPLACE INTO runs (run_id, item_hash, trigger, started, refs) VALUES (?, ?, ?, ?, ?)

-- name: end_run
UPDATE runs SET ended = ?, status = ?, request = ?, response = ?, export = ? WHERE run_id = ?

-- name: forget_old_runs
DELETE FROM runs WHERE n <= (SELECT max(n) FROM runs) - ?
