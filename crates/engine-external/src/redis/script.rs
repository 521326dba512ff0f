//! What Redis does in one step for us and has no command for.

use std::sync::LazyLock;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// A Lua script and the name under which the server keeps it.
pub(super) struct Script {
    pub(super) text: &'static str,
    pub(super) hash: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        // The name that `EVALSHA` wants. Nothing rests on its strength.
        let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let hash = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        Self { text, hash }
    }
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::new($text));)*
    };
}

scripts! {
    /// KEYS: keys. Answers what is stored and the milliseconds left, for each.
    GET = "\
local found = {}
for n, key in ipairs(KEYS) do
  found[2 * n - 1] = redis.call('GET', key)
  found[2 * n] = redis.call('PTTL', key)
end
return found";

    /// KEYS: key. ARGV: expected version, what to store, lifetime. Answers 1 set, 0 another version, -1 absent.
    COMPARE_AND_SET = "\
local version = redis.call('GETRANGE', KEYS[1], 0, 7)
if version == '' then return -1 end
if version ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1";

    /// KEYS: key. ARGV: expected version. Answers how many it deleted.
    COMPARE_AND_DELETE = "\
if redis.call('GETRANGE', KEYS[1], 0, 7) ~= ARGV[1] then return 0 end
return redis.call('UNLINK', KEYS[1])";

    /// KEYS: key. ARGV: lifetime. Answers whether there is an item.
    TOUCH = "\
if ARGV[1] ~= '0' then return redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
redis.call('PERSIST', KEYS[1])
return redis.call('EXISTS', KEYS[1])";

    /// KEYS: key, scratch. ARGV: new version, by, initial, minimum, maximum, lifetime. Answers the sum, `text` when
    /// the value is no number, `bounds` when the sum is out of them.
    ///
    /// Lua's numbers are exact to 15 digits. Longer ones are added by Redis itself, in a key that the script
    /// makes and deletes; it answers with an error when the sum overflows or a number has too many digits.
    INCREMENT = "\
local function canonical(text)
  local sign, digits = string.match(text, '^([+-]?)0*(%d+)$')
  if not digits then return nil end
  if sign == '-' and digits ~= '0' then return '-' .. digits end
  return digits
end
local function less(a, b)
  local a_negative, b_negative = a:sub(1, 1) == '-', b:sub(1, 1) == '-'
  if a_negative ~= b_negative then return a_negative end
  if a == b then return false end
  if #a ~= #b then return (#a < #b) ~= a_negative end
  return (a < b) ~= a_negative
end
local stored = redis.call('GET', KEYS[1])
local before = ARGV[3]
if stored then before = #stored < 64 and canonical(stored:sub(9)) end
if not before then return 'text' end
local sum
if #before <= 15 and #ARGV[2] <= 15 then
  sum = string.format('%.0f', tonumber(before) + tonumber(ARGV[2]))
  if sum == '-0' then sum = '0' end
else
  redis.call('SET', KEYS[2], before)
  local answer = redis.pcall('INCRBY', KEYS[2], ARGV[2])
  sum = redis.call('GET', KEYS[2])
  redis.call('DEL', KEYS[2])
  if type(answer) == 'table' then
    if string.find(answer.err, 'overflow') then return 'bounds' end
    return 'text'
  end
end
if less(sum, ARGV[4]) or less(ARGV[5], sum) then return 'bounds' end
if stored then
  redis.call('SET', KEYS[1], ARGV[1] .. sum, 'KEEPTTL')
elseif ARGV[6] == '0' then
  redis.call('SET', KEYS[1], ARGV[1] .. sum)
else
  redis.call('SET', KEYS[1], ARGV[1] .. sum, 'PX', ARGV[6])
end
return sum";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_named_by_their_sha1() {
        // From RFC 3174, §7.3.
        assert_eq!(
            Script::new("abc").hash,
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
    }
}
