-- name: page
SELECT * FROM messages WHERE {filters} ORDER BY time {order}, n {order} LIMIT :limit OFFSET :offset

-- name: after
SELECT * FROM messages WHERE {filters} AND (time, n) {beyond} (:time, :n)
ORDER BY time {order}, n {order} LIMIT :limit

-- name: count
SELECT count(*) FROM messages WHERE {filters}

-- name: matches
SELECT 1 FROM messages WHERE item_hash = :item_hash AND {filters}

-- name: among
{column} IN (SELECT value FROM json_each(:{name}))

-- name: tagged
n IN (SELECT n FROM tags WHERE tag IN (SELECT value FROM json_each(:tags)))
