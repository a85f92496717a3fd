-- name: last
SELECT max(seq) AS seq FROM events WHERE subject = ?

-- name: of_subject
SELECT * FROM events WHERE subject = ? AND seq > ? ORDER BY seq LIMIT ?

-- name: of_all
SELECT * FROM events WHERE id > ? ORDER BY id LIMIT ?
