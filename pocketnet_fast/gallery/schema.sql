CREATE TABLE gallery (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  uuid TEXT NOT NULL,
  model TEXT NOT NULL,
  weights_sha256 TEXT NOT NULL,
  flip INTEGER NOT NULL CHECK (flip IN (0, 1)),
  dimensions INTEGER NOT NULL CHECK (dimensions BETWEEN 1 AND 65536),
  name_by TEXT NOT NULL DEFAULT '' CHECK (name_by IN ('', 'file', 'folder'))
) STRICT;

CREATE TABLE person (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE CHECK (name <> ''),
  notes TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE face (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  person INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,
  embedding BLOB NOT NULL,
  photo TEXT NOT NULL DEFAULT '',
  box_left REAL,
  box_top REAL,
  box_width REAL,
  box_height REAL,
  quality REAL,
  added INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER))
) STRICT;

CREATE INDEX face_person ON face (person);

CREATE TABLE change (
  number INTEGER PRIMARY KEY,
  mark INTEGER NOT NULL DEFAULT (random()),
  face INTEGER,
  person INTEGER
) STRICT;

CREATE TRIGGER face_checked BEFORE INSERT ON face
WHEN length(NEW.embedding) IS NOT (SELECT 4 * dimensions FROM gallery)
BEGIN
  SELECT RAISE(ABORT, 'an embedding has another number of bytes than 4 times the dimensions of the gallery');
END;

CREATE TRIGGER face_numbered AFTER INSERT ON face
WHEN NEW.id <= (SELECT seq FROM sqlite_sequence WHERE name = 'face')
BEGIN
  SELECT RAISE(ABORT, 'the id of a face is never used again');
END;

CREATE TRIGGER face_kept BEFORE UPDATE OF id, embedding ON face
BEGIN
  SELECT RAISE(ABORT, 'the id and the embedding of a face are never changed');
END;

CREATE TRIGGER person_kept BEFORE UPDATE OF id ON person
BEGIN
  SELECT RAISE(ABORT, 'the id of a person is never changed');
END;

CREATE TRIGGER face_added AFTER INSERT ON face
BEGIN
  INSERT INTO change (face) VALUES (NEW.id);
END;

CREATE TRIGGER face_changed AFTER UPDATE ON face
BEGIN
  INSERT INTO change (face) VALUES (NEW.id);
END;

CREATE TRIGGER face_deleted AFTER DELETE ON face
BEGIN
  INSERT INTO change (face) VALUES (OLD.id);
END;

CREATE TRIGGER person_added AFTER INSERT ON person
BEGIN
  INSERT INTO change (person) VALUES (NEW.id);
END;

CREATE TRIGGER person_changed AFTER UPDATE ON person
BEGIN
  INSERT INTO change (person) VALUES (NEW.id);
END;

CREATE TRIGGER person_deleted AFTER DELETE ON person
BEGIN
  INSERT INTO change (person) VALUES (OLD.id);
END;
