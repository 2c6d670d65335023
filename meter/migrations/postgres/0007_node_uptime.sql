-- How long each node was online on each day, as a meter saw it. The zero address stands for the watch itself: what no meter saw counts for
-- nobody and against nobody.

CREATE TABLE node_uptime (
    node         BYTEA  NOT NULL CHECK (length(node) = 20),
    day          BIGINT NOT NULL,                                           -- days since the epoch, UTC
    online_s     BIGINT NOT NULL CHECK (online_s BETWEEN 0 AND 86400),
    first_s      BIGINT NOT NULL,                                           -- seconds since the epoch, of the day's first sight
    counted_to_s BIGINT NOT NULL,                                           -- up to where the day is counted: nothing counts twice
    PRIMARY KEY (node, day)
);
