BEGIN TRANSACTION;
CREATE TABLE answers (k TEXT PRIMARY KEY, v TEXT NOT NULL);
INSERT INTO "answers" VALUES('link-began','1796058864.9721122');
INSERT INTO "answers" VALUES('experiment/900000857081740680','{"name": "older", "tags": {}}');
INSERT INTO "answers" VALUES('experiment-name/older','"900000857081740680"');
INSERT INTO "answers" VALUES('registering/wine-older/688760cfbaba4dff857a581922ceeb5e','{"queue": "fca2e4314da74dc9ac00ca4799a6da3f", "to": ["databricks"]}');
INSERT INTO "answers" VALUES('provisional/688760cfbaba4dff857a581922ceeb5e','{"key": "688760cfbaba4dff857a581922ceeb5e", "name": "wine-older", "source": {"kind": "model", "id": "m-5902ed128259433cb9f4aa903176be22"}, "run": "fca2e4314da74dc9ac00ca4799a6da3f", "tags": {}, "run_link": null, "description": null, "to": ["databricks"], "after": {}, "queue": "fca2e4314da74dc9ac00ca4799a6da3f", "at": 1796058875.3369315}');
INSERT INTO "answers" VALUES('alias/wine-older/champion','{"version": "0", "of": "688760cfbaba4dff857a581922ceeb5e"}');
CREATE TABLE counts (dest TEXT PRIMARY KEY, delivered INTEGER NOT NULL);
CREATE TABLE cursors (
    dest TEXT NOT NULL, queue TEXT NOT NULL, file TEXT NOT NULL,
    offset INTEGER NOT NULL, sending INTEGER NOT NULL,
    PRIMARY KEY (dest, queue, file)
) WITHOUT ROWID;
INSERT INTO "cursors" VALUES('azureml','link','366-8be32a9b-1.jsonl',0,0);
CREATE TABLE dead (
    id INTEGER PRIMARY KEY AUTOINCREMENT, dest TEXT NOT NULL, queue TEXT NOT NULL, op TEXT NOT NULL,
    cause TEXT NOT NULL, at REAL NOT NULL
);
INSERT INTO "dead" VALUES(1,'azureml','fca2e4314da74dc9ac00ca4799a6da3f','[1796058429730020284, "g", "refused", "x"]','it was refused',1.79605887549571752552e+09);
CREATE TABLE ids (
    dest TEXT NOT NULL, kind TEXT NOT NULL, visible TEXT NOT NULL, actual TEXT NOT NULL, extra TEXT NOT NULL,
    PRIMARY KEY (dest, kind, visible)
) WITHOUT ROWID;
CREATE TABLE meta (k TEXT PRIMARY KEY, v TEXT NOT NULL);
INSERT INTO "meta" VALUES('format','1');
CREATE TABLE models (visible TEXT PRIMARY KEY, queue TEXT NOT NULL, info TEXT NOT NULL);
INSERT INTO "models" VALUES('m-5902ed128259433cb9f4aa903176be22','fca2e4314da74dc9ac00ca4799a6da3f','{"id": "m-5902ed128259433cb9f4aa903176be22", "experiment": "900000857081740680", "name": "model", "run": "fca2e4314da74dc9ac00ca4799a6da3f", "type": null, "params": {"p": "1"}, "tags": {"mlflow.user": "ada", "mlflow.source.name": "train.py", "mlflow.source.type": "LOCAL", "t": "2"}, "created": 1796058875179}');
CREATE TABLE overflow (
    dest TEXT NOT NULL, queue TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,
    step INTEGER NOT NULL, stamp INTEGER NOT NULL, extra TEXT NOT NULL, value TEXT NOT NULL,
    why TEXT NOT NULL,
    PRIMARY KEY (dest, queue, kind, key, step, stamp, extra, value)
) WITHOUT ROWID;
CREATE TABLE receipts (
    dest TEXT NOT NULL, queue TEXT NOT NULL, kind TEXT NOT NULL,
    count INTEGER NOT NULL, first REAL NOT NULL, last REAL NOT NULL,
    PRIMARY KEY (dest, queue, kind)
) WITHOUT ROWID;
CREATE TABLE runs (visible TEXT PRIMARY KEY, at REAL NOT NULL, info TEXT NOT NULL);
INSERT INTO "runs" VALUES('22a1cd9e3589494fbec814256b8467d3',1.79605887517206430428e+09,'{"experiment": "900000857081740680", "user": "ada", "start": 1796058875168, "name": "child", "parent": "fca2e4314da74dc9ac00ca4799a6da3f", "provisional": true, "ended": true}');
INSERT INTO "runs" VALUES('fca2e4314da74dc9ac00ca4799a6da3f',1.79605887535672664647e+09,'{"experiment": "900000857081740680", "user": "ada", "start": 1796058875044, "name": "parent", "parent": null, "provisional": true, "ended": true}');
INSERT INTO "runs" VALUES('3b4bc04940124cf28d025d9cc46177e8',1.79605887535834145545e+09,'{"experiment": "900000857081740680", "user": "ada", "start": 1796058875357, "name": "failed", "parent": null, "provisional": true, "ended": true}');
INSERT INTO "runs" VALUES('7271193036f24d8695dbc1867a77bde6',1.79605887535940909383e+09,'{"experiment": "900000857081740680", "user": "ada", "start": 1796058875358, "name": "open", "parent": null, "provisional": true, "ended": false}');
CREATE INDEX ids_actual ON ids (dest, kind, actual);
CREATE INDEX runs_at ON runs (at);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('dead',1);
COMMIT;
