#include "sqlite.h"

#include <algorithm>

namespace pocketnet::server {
namespace {

// SQLite quotes the file, which may hold anything, in one line without codes for a terminal.
SqliteError error_of(sqlite3* database, int code) {
  std::string text = database != nullptr ? sqlite3_errmsg(database) : sqlite3_errstr(code);
  std::replace_if(text.begin(), text.end(), [](unsigned char byte) { return byte < 0x20 || byte == 0x7f; }, '?');
  return {code & 0xff, text};
}

}  // namespace

void SqliteStatement::check(int code) const {
  if (code != SQLITE_OK) throw error_of(database_, code);
}

SqliteStatement& SqliteStatement::bind(std::int64_t value) {
  check(sqlite3_bind_int64(statement_.get(), ++bound_, value));
  return *this;
}

SqliteStatement& SqliteStatement::bind(double value) {
  check(sqlite3_bind_double(statement_.get(), ++bound_, value));
  return *this;
}

SqliteStatement& SqliteStatement::bind(std::string_view text) {
  check(sqlite3_bind_text64(statement_.get(), ++bound_, text.data(), text.size(), SQLITE_TRANSIENT, SQLITE_UTF8));
  return *this;
}

SqliteStatement& SqliteStatement::bind(std::span<const std::uint8_t> blob) {
  check(sqlite3_bind_blob64(statement_.get(), ++bound_, blob.data(), blob.size(), SQLITE_TRANSIENT));
  return *this;
}

SqliteStatement& SqliteStatement::bind_null() {
  check(sqlite3_bind_null(statement_.get(), ++bound_));
  return *this;
}

bool SqliteStatement::step() {
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE) throw error_of(database_, code);
  return false;
}

void SqliteStatement::run() {
  while (step()) {
  }
}

std::string SqliteStatement::text(int column) const {
  const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_.get(), column));
  return text == nullptr ? "" : std::string(text, sqlite3_column_bytes(statement_.get(), column));
}

std::span<const std::uint8_t> SqliteStatement::blob(int column) const {
  const auto* bytes = static_cast<const std::uint8_t*>(sqlite3_column_blob(statement_.get(), column));
  return {bytes, static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column))};
}

SqliteDatabase::SqliteDatabase(const std::string& name, int flags) : database_(nullptr, &sqlite3_close) {
  sqlite3* opened = nullptr;
  const int code = sqlite3_open_v2(name.c_str(), &opened, flags, nullptr);
  database_.reset(opened);
  if (code != SQLITE_OK) throw error_of(opened, code);
}

SqliteStatement SqliteDatabase::prepare(std::string_view sql) {
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v2(database_.get(), sql.data(), static_cast<int>(sql.size()), &statement, nullptr);
  if (code != SQLITE_OK) throw error_of(database_.get(), code);
  return {database_.get(), statement};
}

void SqliteDatabase::execute(const char* sql) {
  const int code = sqlite3_exec(database_.get(), sql, nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) throw error_of(database_.get(), code);
}

std::int64_t SqliteDatabase::pragma(const char* name) {
  SqliteStatement statement = prepare(std::string("PRAGMA ") + name);
  return statement.step() ? statement.integer(0) : 0;
}

SqliteDatabase::Transaction::Transaction(SqliteDatabase& database, const char* begin) : database_(database) {
  database_.execute(begin);
}

SqliteDatabase::Transaction::~Transaction() {
  if (!open_) return;
  try {
    database_.execute("ROLLBACK");
  } catch (const SqliteError&) {
    // SQLite has rolled back by itself, as after a full disk.
  }
}

void SqliteDatabase::Transaction::commit() {
  database_.execute("COMMIT");
  open_ = false;
}

}  // namespace pocketnet::server
