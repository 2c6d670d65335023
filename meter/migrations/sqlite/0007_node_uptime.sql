-- How long each node was online on each day, as a meter saw it. The zero address stands for the watch itself: what no meter saw counts for
-- nobody and against nobody.

CREATE TABLE node_uptime (
    node         BLOB    NOT NULL CHECK (length(node) = 20),
    day          INTEGER NOT NULL,                                           -- days since the epoch, UTC
    online_s     INTEGER NOT NULL CHECK (online_s BETWEEN 0 AND 86400),
    first_s      INTEGER NOT NULL,                                           -- seconds since the epoch, of the day's first sight
    counted_to_s INTEGER NOT NULL,                                           -- up to where the day is counted: nothing counts twice
    PRIMARY KEY (node, day)
) STRICT, WITHOUT ROWID;
