-- name: task
SELECT * FROM tasks WHERE id = ?

-- name: file
SELECT file FROM files WHERE task = ?

-- name: tasks
SELECT id FROM tasks ORDER BY coalesce(started_at, created_at), n

-- name: tasks_of
SELECT id FROM tasks WHERE owner = ? ORDER BY coalesce(started_at, created_at), n

-- name: unfinished
SELECT id FROM tasks WHERE status IN ('creating', 'waiting', 'computing') ORDER BY n

-- name: subtask
SELECT * FROM subtasks WHERE id = ?

-- name: subtasks
SELECT *, number AS place FROM subtasks WHERE task = ? AND number > ? ORDER BY number LIMIT ?

-- name: active
SELECT * FROM subtasks INDEXED BY subtasks_by_status
WHERE task = ? AND status IN ('starting', 'downloading', 'verifying')
ORDER BY number

-- name: failed_not_discarded
SELECT id, n AS place FROM subtasks INDEXED BY subtasks_by_status
WHERE task = ? AND n > ? AND status = 'failure' AND discard = 'unsent'
ORDER BY n LIMIT ?

-- name: counts
SELECT status, count FROM counts WHERE task = ? AND count > 0

-- name: asked
SELECT id FROM asked WHERE task = ?

-- name: owed
SELECT id FROM subtasks WHERE task = ? AND owed ORDER BY n

-- name: discarding
SELECT id FROM subtasks WHERE task = ? AND discard = 'sent' ORDER BY n

-- name: attributions
SELECT attributions.n AS place, path, subtask, status
FROM attributions JOIN subtasks ON subtasks.id = attributions.subtask
WHERE attributions.task = ? AND attributions.n > ?
ORDER BY attributions.n LIMIT ?

-- name: benchmark
SELECT * FROM benchmarks WHERE env_id = ? AND prereq_hash = ?
