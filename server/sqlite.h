// SQLite's C interface as objects that clean up and throw.
#pragma once
#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace pocketnet::server {

class SqliteError : public std::runtime_error {
 public:
  SqliteError(int code, const std::string& what) : std::runtime_error(what), code_(code) {}
  int code() const { return code_; }  // the primary one, as SQLITE_BUSY

 private:
  int code_;
};

class SqliteStatement {
 public:
  // Binds in the order of the question marks.
  SqliteStatement& bind(std::int64_t value);
  SqliteStatement& bind(double value);
  SqliteStatement& bind(std::string_view text);
  SqliteStatement& bind(std::span<const std::uint8_t> blob);
  SqliteStatement& bind_null();

  // The next row; false behind the last one.
  bool step();
  // For statements that give no rows.
  void run();

  std::int64_t integer(int column) const { return sqlite3_column_int64(statement_.get(), column); }
  double real(int column) const { return sqlite3_column_double(statement_.get(), column); }
  bool is_null(int column) const { return sqlite3_column_type(statement_.get(), column) == SQLITE_NULL; }
  std::string text(int column) const;
  std::span<const std::uint8_t> blob(int column) const;

 private:
  friend class SqliteDatabase;
  SqliteStatement(sqlite3* database, sqlite3_stmt* statement)
      : database_(database), statement_(statement, &sqlite3_finalize) {}
  void check(int code) const;

  sqlite3* database_;
  std::unique_ptr<sqlite3_stmt, decltype(&sqlite3_finalize)> statement_;
  int bound_ = 0;
};

class SqliteDatabase {
 public:
  // `name` is a path, or with SQLITE_OPEN_URI a URI.
  SqliteDatabase(const std::string& name, int flags);

  SqliteStatement prepare(std::string_view sql);
  void execute(const char* sql);
  std::int64_t pragma(const char* name);
  std::int64_t last_id() const { return sqlite3_last_insert_rowid(database_.get()); }
  std::int64_t changes() const { return sqlite3_changes64(database_.get()); }

  // Ends with a rollback unless committed.
  class Transaction {
   public:
    Transaction(SqliteDatabase& database, const char* begin);
    ~Transaction();
    Transaction(const Transaction&) = delete;
    Transaction& operator=(const Transaction&) = delete;
    void commit();

   private:
    SqliteDatabase& database_;
    bool open_ = true;
  };

 private:
  std::unique_ptr<sqlite3, decltype(&sqlite3_close)> database_;
};

}  // namespace pocketnet::server
