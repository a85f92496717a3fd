-- name: settled
SELECT * FROM messages WHERE item_hash = ? AND status <> 'pending'

-- name: pending
SELECT * FROM messages WHERE item_hash = ? AND status = 'pending' ORDER BY n

-- name: by_number
SELECT * FROM messages WHERE n = ?

-- name: all_pending
SELECT n FROM messages WHERE status = 'pending' ORDER BY n

-- name: rejection
SELECT * FROM rejections WHERE item_hash = ?

-- name: processed
SELECT n, role, unsigned FROM messages WHERE item_hash = ? AND status = 'processed'

-- name: forgotten
SELECT 1 FROM messages WHERE item_hash = ? AND status = 'forgotten'

-- name: referring
SELECT n, role FROM messages WHERE ref = ? AND status = 'processed' ORDER BY n

-- name: elements
SELECT n, role FROM messages WHERE key = ? AND owner = ? AND status = 'processed' ORDER BY n

-- name: keys
SELECT DISTINCT key FROM messages WHERE role = 'AGGREGATE' AND owner = ? AND status = 'processed' ORDER BY key

-- name: using
SELECT uses.n, role FROM uses JOIN messages USING (n) WHERE uses.ref = ? AND status = 'processed' ORDER BY uses.n

-- name: programs
SELECT item_hash FROM messages WHERE role = 'PROGRAM' AND status = 'processed' ORDER BY n

-- name: triggered
SELECT item_hash FROM messages WHERE triggered AND status = 'processed' ORDER BY n

-- name: newest_store
SELECT item_hash FROM messages WHERE owner = ? AND role = 'STORE' AND status = 'processed' ORDER BY made DESC, n LIMIT 1

-- name: named_store
SELECT item_hash FROM messages
WHERE ref = :ref AND owner = :owner AND role = 'STORE' AND status = 'processed'
ORDER BY made DESC, n LIMIT 1

-- name: awaited
SELECT DISTINCT name FROM awaited JOIN messages USING (n)
WHERE item_hash = ? AND status = 'pending'
ORDER BY name

-- name: awaited_by
SELECT name FROM awaited WHERE n = ?

-- name: awaiting
SELECT n FROM awaited WHERE name = ? ORDER BY n

-- name: file
SELECT digest, size FROM files WHERE hash = ?

-- name: own_file
SELECT digest, size FROM files WHERE hash = ? AND NOT alias

-- name: deliveries
SELECT message, program FROM deliveries ORDER BY n

-- name: run
SELECT * FROM runs WHERE run_id = ?
