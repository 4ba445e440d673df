//! The scripts by which sessions are owned and written in Redis; each runs as one step there.
//!
//! Keys, beside the predecessor's `SESSION:<client>`, `SUB:<client>` and `PUB:<client>` (all
//! below `<GROUP>:`, or `{<GROUP>}:` in a Redis Cluster):
//!
//! | key | type | what |
//! |---|---|---|
//! | `SESSION:<client>` | hash | `owner` (`<node>:<incarnation>`, `-` while handed over), `epoch`, `expiry`, `will`, `ends`, `will_at`, `handover`, `claimer`, `freed`, `from` (who handed it over, and the epoch it had there), `passing` (who passes messages on to it), `left` (owners it was taken from and whose inboxes it still needs, one a line), `had:<owner>` (the epoch it had at one of these), `lost` (epochs in which it was taken without being handed over), `taking` (the last look at what was passed on, and how many it found) |
//! | `SUB:<client>` | hash | filter -> grant |
//! | `PUB:<client>` | hash | `<serial>` -> message, `<serial>s` -> where it stands, `last` -> last packet identifier, `i<id>` -> a QoS 2 identifier received, `n<id>` -> one whose message is perhaps not yet with everybody: its number, `h<place>` -> a message held while others are passed on |
//! | `V2:ONCE:<client>` | list | numbers of the last QoS 2 messages the client said PUBREC to, eight bytes each |
//! | `V2:SESSION_EPOCH` | integer | the last epoch given to a session |
//! | `V2:BORN` | string | when this life of Redis began, and who found it new |
//! | `V2:RESTORED` | string | the life for which nodes restored what the one before had |
//! | `V2:RESTORING` | string | exists while they may still do so |
//! | `V2:OWNERS` | set | everybody who ever owned and was not yet adopted |
//! | `V2:OWNED:<owner>` | set | clients |
//! | `V2:AWAKE:<owner>` | string | it looked lately what others want of it; without, others may take its sessions, and whoever does removes it |
//! | `V2:LEFT:<owner>` | set | clients whose sessions need this owner's inbox |
//! | `V2:GOT:<owner>` | sorted set | numbers of QoS 2 messages for shared groups that its sessions got, and when: who takes over its inbox (`bridge`) leaves them out; none while that is empty |
//! | `V2:EVICT:<owner>` | list | `E <epoch> <client>` to hand over, `D <epoch> <client>` lost already; removed when it looks again |
//! | `V2:HANDED:<owner>` | set | clients whose sessions this owner handed over and passes messages on to; needed if it dies |
//! | `V2:PASS:<client>` | list | messages for a session that has just moved; empty: there are no more |
//! | `V2:TAKEN:<client>` | list | those of them that its owner has read and not recorded |
//! | `V2:STORE:<owner>` | channel | `evict`, `freed <client>` or `pass <client>` |
//! | `V2:INBOX:<owner>` | stream | `bridge`'s; behind all that was written to a session's old owner before every node knew the new one, and behind what the new one took out of it, comes `known <epoch> <client>` |
//!
//! An owner is live while `NODE:<node>` holds its incarnation. A session's keys carry no expiry
//! while its client is connected: then its owner, or whoever adopts it, ends it.

use octopus_engine::GOT_MAX;

/// What every script begins with, behind `publish`, the command that does, and `got_max`. ARGV:
/// prefix of keys, own name.
const COMMON: &str = r"
local prefix, me = ARGV[1], ARGV[2]
local at = 2
local function take() at = at + 1 return ARGV[at] end
local function is_live(owner)
  local id, incarnation = string.match(owner, '^(.*):([^:]*)$')
  return id and redis.call('GET', prefix .. 'NODE:' .. id) == incarnation
end
local function is_of_my_node(owner)
  return string.match(owner, '^(.*):') == string.match(me, '^(.*):')
end
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function owe(client, old)
  local session = prefix .. 'SESSION:' .. client
  local left = redis.call('HGET', session, 'left') or ''
  if old and old ~= '' and old ~= '-' and old ~= me then
    left = left .. old .. '\n'
    local epoch = redis.call('HGET', session, 'epoch')
    redis.call('HSET', session, 'left', left, 'had:' .. old, epoch)
    redis.call('SADD', prefix .. 'V2:LEFT:' .. old, client)
    local lost = redis.call('HGET', session, 'lost') or ''
    redis.call('HSET', session, 'lost', string.sub(lost, -200) .. ' ' .. epoch .. ' ')
  end
end
local function known(client, old, epoch)
  local inbox = prefix .. 'V2:INBOX:' .. old
  if is_live(old) or redis.call('EXISTS', inbox) == 1 then
    redis.call('XADD', inbox, '*', 'f', 'known ' .. epoch .. ' ' .. client)
  end
end
local function inherited(client, node)
  local session, kept = prefix .. 'SESSION:' .. client, ''
  for name in string.gmatch(redis.call('HGET', session, 'left') or '', '[^\n]+') do
    if node and name ~= node then kept = kept .. name .. '\n'
    else
      redis.call('SREM', prefix .. 'V2:LEFT:' .. name, client)
      local epoch = redis.call('HGET', session, 'had:' .. name)
      if epoch then known(client, name, epoch) end
      redis.call('HDEL', session, 'had:' .. name)
    end
  end
  if node then redis.call('HSET', session, 'left', kept) end
end
local function own(client, old, lost)
  local session = prefix .. 'SESSION:' .. client
  local epoch = redis.call('INCR', prefix .. 'V2:SESSION_EPOCH')
  if old and old ~= '' then
    redis.call('SREM', prefix .. 'V2:OWNED:' .. old, client)
    if lost and old ~= '-' then
      redis.call('DEL', prefix .. 'V2:AWAKE:' .. old)
      local list = prefix .. 'V2:EVICT:' .. old
      redis.call('RPUSH', list, 'D ' .. lost .. ' ' .. client)
      redis.call('PEXPIRE', list, 3600000)
    end
  end
  redis.call('HSET', session, 'owner', me, 'epoch', epoch)
  redis.call('SADD', prefix .. 'V2:OWNED:' .. me, client)
  redis.call('SADD', prefix .. 'V2:OWNERS', me)
  for _, kind in ipairs({'SESSION:', 'SUB:', 'PUB:', 'V2:ONCE:'}) do
    redis.call('PERSIST', prefix .. kind .. client)
  end
  return epoch
end
local function state(client)
  local pass = prefix .. 'V2:PASS:' .. client
  while redis.call('RPOPLPUSH', prefix .. 'V2:TAKEN:' .. client, pass) do end
  redis.call('HDEL', prefix .. 'SESSION:' .. client, 'taking')
  redis.call('PEXPIRE', pass, 600000)
  return {
    redis.call('HGETALL', prefix .. 'SESSION:' .. client),
    redis.call('HGETALL', prefix .. 'SUB:' .. client),
    redis.call('HGETALL', prefix .. 'PUB:' .. client),
    redis.call('LRANGE', prefix .. 'V2:ONCE:' .. client, 0, -1),
    redis.call('EXISTS', pass),
  }
end
local function unkeep(client, passed, place)
  if passed == '1' then redis.call('LPOP', prefix .. 'V2:TAKEN:' .. client) end
  if place ~= '' then redis.call('HDEL', prefix .. 'PUB:' .. client, 'h' .. place) end
end
local function end_passing(client, needs_inbox)
  local session = prefix .. 'SESSION:' .. client
  local old = redis.call('HGET', session, 'passing')
  if not old then return end
  redis.call('HDEL', session, 'passing')
  redis.call('SREM', prefix .. 'V2:HANDED:' .. old, client)
  if needs_inbox and old ~= me then
    redis.call('HSET', session, 'left', old .. '\n' .. (redis.call('HGET', session, 'left') or ''))
    redis.call('SADD', prefix .. 'V2:LEFT:' .. old, client)
  end
end
";

/// Operations in order, each as its letter, client, epoch and what the letter wants. Answers a
/// row for each claim and each operation that was refused: its number from 0, a word, more. The
/// row `lost`, and nothing is done, if Redis is not in the life that ARGV[3] names.
const BATCH: &str = r"
if redis.call('GET', prefix .. 'V2:BORN') ~= take() then return {{'lost'}} end
local function expire(key, ends)
  if ends and ends ~= '0' then redis.call('PEXPIREAT', key, ends + 60000) end
end
local function remember(list, number, ends)
  if redis.call('RPUSH', list, number) > got_max * 5 / 4 then
    redis.call('LTRIM', list, -got_max, -1)
  end
  expire(list, ends)
end
local answer, number = {}, -1
while at < #ARGV do
  number = number + 1
  local op, client, epoch = take(), take(), take()
  local session = prefix .. 'SESSION:' .. client
  local sub, pub = prefix .. 'SUB:' .. client, prefix .. 'PUB:' .. client
  local once = prefix .. 'V2:ONCE:' .. client
  local held = redis.call('HMGET', session, 'owner', 'epoch', 'ends')
  local owner = held[1]
  if op == 'C' then
    local forced, here, known, early = take(), take(), take(), take()
    local may_live = owner and owner ~= '-'
      and (is_live(owner) or early == '1' and not is_of_my_node(owner))
    if owner == me and here == '1' then
      answer[#answer + 1] = {number, 'mine', held[2]}
    elseif owner == me then
      answer[#answer + 1] = {number, 'taken', held[2], unpack(state(client))}
    elseif not owner and redis.call('EXISTS', prefix .. 'V2:RESTORING') == 1 then
      answer[#answer + 1] = {number, 'held', ''}
    elseif may_live and forced ~= owner .. ' ' .. held[2] then
      if known ~= owner .. ' ' .. held[2] then
        local list = prefix .. 'V2:EVICT:' .. owner
        redis.call('RPUSH', list, 'E ' .. held[2] .. ' ' .. client)
        redis.call('PEXPIRE', list, 3600000)
        redis.call('HSET', session, 'claimer', me)
        redis.call(publish, prefix .. 'V2:STORE:' .. owner, 'evict')
      end
      answer[#answer + 1] = {number, 'held', owner .. ' ' .. held[2]}
    else
      if not owner then
        redis.call('DEL', prefix .. 'V2:PASS:' .. client, prefix .. 'V2:TAKEN:' .. client)
      end
      owe(client, owner)
      local before = state(client)
      answer[#answer + 1] = {number, 'taken', tostring(own(client, owner, held[2])), unpack(before)}
    end
  else
    local ours = owner == me and held[2] == epoch
    if op == 'F' then
      -- The session is another's, and so it should be: unless it was not handed over.
      local item, list = take(), prefix .. 'V2:PASS:' .. client
      local lost = redis.call('HGET', session, 'lost') or ''
      ours = epoch ~= '0' and not string.find(lost, ' ' .. epoch .. ' ', 1, true)
      if ours then
        redis.call('RPUSH', list, item)
        redis.call('PEXPIRE', list, 600000)
        if owner and owner ~= '-' then
          redis.call(publish, prefix .. 'V2:STORE:' .. owner, 'pass ' .. client)
        end
      end
    end
    if op == 'N' then ours = true end
    if op == 'O' then
      local expiry, will = take(), take()
      ours = ours or not owner
      if ours then
        redis.call('HSET', session, 'owner', me, 'epoch', epoch, 'expiry', expiry, 'will', will)
        redis.call('HDEL', session, 'ends', 'will_at', 'handover')
        redis.call('SADD', prefix .. 'V2:OWNED:' .. me, client)
        redis.call('SADD', prefix .. 'V2:OWNERS', me)
        for _, key in ipairs({session, sub, pub, once}) do redis.call('PERSIST', key) end
      end
    elseif op == 'A' then
      local expiry, ends, will_at = take(), take(), take()
      if ours then
        redis.call('HSET', session, 'expiry', expiry, 'ends', ends, 'will_at', will_at)
        redis.call('HDEL', session, 'handover')
        if ends ~= '0' then
          local late = ends + 60000
          for _, key in ipairs({session, sub, pub, once}) do
            redis.call('PEXPIREAT', key, late)
          end
        end
      end
    elseif op == 'W' then
      if ours then redis.call('HSET', session, 'will', '', 'will_at', '0') end
    elseif op == 'E' then
      if ours then
        inherited(client)
        end_passing(client)
        redis.call('DEL', session, sub, pub, once)
        redis.call('DEL', prefix .. 'V2:PASS:' .. client, prefix .. 'V2:TAKEN:' .. client)
        redis.call('SREM', prefix .. 'V2:OWNED:' .. me, client)
      end
    elseif op == 'X' then
      local handover = take()
      ours = ours or (not owner and handover ~= '')
      if ours then
        local claimer = redis.call('HGET', session, 'claimer')
        if handover ~= '' then redis.call('HSET', session, 'handover', handover) end
        redis.call('HSET', session, 'epoch', epoch, 'owner', '-', 'freed', now_ms())
        redis.call('HSET', session, 'from', me .. ' ' .. epoch, 'passing', me)
        redis.call('HDEL', session, 'claimer')
        redis.call('SADD', prefix .. 'V2:HANDED:' .. me, client)
        redis.call('SREM', prefix .. 'V2:OWNED:' .. me, client)
        redis.call('SADD', prefix .. 'V2:OWNED:-', client)
        redis.call('SADD', prefix .. 'V2:OWNERS', '-')
        if claimer then
          redis.call(publish, prefix .. 'V2:STORE:' .. claimer, 'freed ' .. client)
        end
      end
    elseif op == 'V' then
      local is_told = take() == '1'
      if ours then
        if is_told then unkeep(client, '1', '') end
        end_passing(client, not is_told)
      end
    elseif op == 'T' then
      local node = take()
      if ours then inherited(client, node) end
    elseif op == 'K' then
      local from = ours and redis.call('HGET', session, 'from')
      if from then
        known(client, string.match(from, '^(.*) (%d+)$'))
        redis.call('HDEL', session, 'from')
      end
    elseif op == 'S' then
      local filter, grant = take(), take()
      if ours then redis.call('HSET', sub, filter, grant) end
    elseif op == 'U' then
      local filter = take()
      if ours then redis.call('HDEL', sub, filter) end
    elseif op == 'Q' then
      local serial, item, num, passed, place = take(), take(), take(), take(), take()
      if ours then
        redis.call('HSET', pub, serial, item)
        unkeep(client, passed, place)
        if num ~= '' and redis.call('XLEN', prefix .. 'V2:INBOX:' .. me) > 0 then
          redis.call('ZADD', prefix .. 'V2:GOT:' .. me, now_ms(), num)
        end
        expire(pub, held[3])
      end
    elseif op == 'H' then
      local place, item = take(), take()
      if ours then
        redis.call('HSET', pub, 'h' .. place, item)
        expire(pub, held[3])
      end
    elseif op == 'Y' then
      local passed, place = take(), take()
      if ours then unkeep(client, passed, place) end
    elseif op == 'P' then
      local serial, where, last = take(), take(), take()
      if ours then redis.call('HSET', pub, serial .. 's', where, 'last', last) end
    elseif op == 'R' then
      local serial, where, num = take(), take(), take()
      if ours then
        redis.call('HDEL', pub, serial)
        redis.call('HSET', pub, serial .. 's', where)
        if num ~= '' then remember(once, num, held[3]) end
      end
    elseif op == 'G' then
      local numbers = take()
      if ours then
        redis.call('DEL', once)
        for i = 1, #numbers, 8 do remember(once, string.sub(numbers, i, i + 7), held[3]) end
      end
    elseif op == 'D' then
      local serial = take()
      if ours then redis.call('HDEL', pub, serial, serial .. 's') end
    elseif op == 'I' then
      local id, num = take(), take()
      if ours then
        redis.call('HDEL', pub, (num ~= '' and 'i' or 'n') .. id)
        redis.call('HSET', pub, (num ~= '' and 'n' or 'i') .. id, num)
        expire(pub, held[3])
      end
    elseif op == 'J' then
      local id = take()
      if ours then redis.call('HDEL', pub, 'i' .. id, 'n' .. id) end
    end
    if not ours then answer[#answer + 1] = {number, 'refused'} end
  end
end
return answer";

/// Gets to know the life of Redis, or begins it. ARGV: the life known before, lease in ms. Answers
/// the life; empty if this node's lease does not hold. Session epochs go on above those of any
/// life before, which were counted from a moment before this one.
const BEGIN: &str = r"
if not is_live(me) then return '' end
local before, lease = take(), take()
local key = prefix .. 'V2:BORN'
local born = redis.call('GET', key)
if not born then
  born = string.format('%.0f', now_ms()) .. ' ' .. me
  redis.call('SET', key, born)
  redis.call('SET', prefix .. 'V2:SESSION_EPOCH', string.format('%.0f', now_ms()), 'NX')
end
if before ~= '' and before ~= born and redis.call('GET', prefix .. 'V2:RESTORED') ~= born then
  redis.call('SET', prefix .. 'V2:RESTORED', born)
  redis.call('SET', prefix .. 'V2:RESTORING', '1', 'PX', lease)
end
return born";

/// What others want of this owner. Answers whether its node's lease holds, whether it is awake,
/// and the entries: `K` in place of `D` if every node knows where the session is. They stand
/// there until the next look. An owner that has lost sessions, or was not awake, is so only when
/// it has heeded what others wanted meanwhile. ARGV: how long it has its sessions for certain, ms;
/// whether it has heeded; how many entries the last look found.
const TEND: &str = r"
local list = prefix .. 'V2:EVICT:' .. me
local awake, lease, heeded = prefix .. 'V2:AWAKE:' .. me, take(), take() == '1'
redis.call('LTRIM', list, take(), -1)
local entries = redis.call('LRANGE', list, 0, -1)
for i, entry in ipairs(entries) do
  local epoch, client = string.match(entry, '^D (%d+) (.*)$')
  if epoch then heeded = false end
  if epoch and redis.call('HGET', prefix .. 'SESSION:' .. client, 'had:' .. me) ~= epoch then
    entries[i] = 'K ' .. epoch .. ' ' .. client
  end
end
local is_mine = is_live(me)
local is_awake = redis.call('EXISTS', awake) == 1 or heeded
if is_mine and is_awake then redis.call('SET', awake, '', 'PX', lease) end
return {is_mine and 1 or 0, is_awake and 1 or 0, entries}";

/// Takes up to a number of sessions of one owner that is not live. ARGV: owner, number, how
/// long one may be between two owners, ms. Answers rows of client, epoch and state.
const ADOPT: &str = r"
local owner, count, limbo = take(), tonumber(take()), tonumber(take())
if owner == me or is_live(owner) then return {} end
local owned = prefix .. 'V2:OWNED:' .. owner
local answer, back = {}, {}
for _, client in ipairs(redis.call('SPOP', owned, count)) do
  local held = redis.call('HMGET', prefix .. 'SESSION:' .. client, 'owner', 'epoch', 'freed')
  if held[1] == owner then
    if owner == '-' and now_ms() - (tonumber(held[3]) or 0) < limbo then
      back[#back + 1] = client
    else
      owe(client, owner)
      local before = state(client)
      answer[#answer + 1] = {client, tostring(own(client, owner, held[2])), unpack(before)}
    end
  end
end
for _, client in ipairs(back) do redis.call('SADD', owned, client) end
if redis.call('SCARD', owned) == 0 then redis.call('SREM', prefix .. 'V2:OWNERS', owner) end
return answer";

/// What was passed on to a session, for its owner and nobody else. It is kept until the owner has
/// recorded it; whoever takes the session before is passed it again. ARGV: client, number of this
/// look: the same again if its answer was lost, which then begins with what that one found.
const PASSED: &str = r"
local client, look = take(), take()
local session = prefix .. 'SESSION:' .. client
local owner, taking = unpack(redis.call('HMGET', session, 'owner', 'taking'))
if owner ~= me then return {} end
local before, count = string.match(taking or '', '^(%d+) (%d+)$')
count = before == look and tonumber(count) or 0
local list = prefix .. 'V2:PASS:' .. client
local taken = prefix .. 'V2:TAKEN:' .. client
local items = redis.call('LRANGE', list, 0, -1)
if #items > 0 then
  redis.call('DEL', list)
  for _, item in ipairs(items) do redis.call('RPUSH', taken, item) end
  redis.call('PEXPIRE', taken, 600000)
  count = count + #items
  redis.call('HSET', session, 'taking', look .. ' ' .. count)
end
if count == 0 then return {} end
return redis.call('LRANGE', taken, -count, -1)";

/// Of all owners, those that are not live.
const GONE: &str = r"
local gone = {}
for _, owner in ipairs(redis.call('SMEMBERS', prefix .. 'V2:OWNERS')) do
  if owner ~= me and not is_live(owner) then gone[#gone + 1] = owner end
end
return gone";

/// The scripts' texts.
///
/// - `publish`: the command that publishes on the group's channels.
pub(super) struct Texts {
    pub(super) batch: String,
    pub(super) begin: String,
    pub(super) tend: String,
    pub(super) adopt: String,
    pub(super) passed: String,
    pub(super) gone: String,
}

impl Texts {
    pub(super) fn new(publish: &str) -> Self {
        let text =
            |script| format!("local publish, got_max = '{publish}', {GOT_MAX}\n{COMMON}{script}");
        Self {
            batch: text(BATCH),
            begin: text(BEGIN),
            tend: text(TEND),
            adopt: text(ADOPT),
            passed: text(PASSED),
            gone: text(GONE),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    use redis::{Connection, cmd};

    use super::*;

    /// A Redis of this test's own, at a socket in a directory of its own.
    struct Server {
        child: Child,
        directory: PathBuf,
    }

    impl Server {
        fn start() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("octopus-scripts-{}-{number}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&directory).expect("a directory");
            let mut command = Command::new("redis-server");
            command.args(["--port", "0", "--save", "", "--unixsocket", "socket"]);
            command.current_dir(&directory).stdout(Stdio::null());
            let child = command.spawn().expect("redis-server, which tests/run.sh installs");
            Self { child, directory }
        }

        fn connection(&self) -> Connection {
            let url = format!("redis+unix://{}/socket", self.directory.display());
            let client = redis::Client::open(url).expect("a place");
            let until = Instant::now() + Duration::from_secs(30);
            loop {
                match client.get_connection() {
                    Ok(connection) => return connection,
                    Err(error) => assert!(Instant::now() < until, "{error}"),
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            // It may be gone already.
            let _ = self.child.kill();
            let _ = self.child.wait();
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }

    #[test]
    fn a_look_whose_answer_was_lost_finds_the_same_and_what_came_since() {
        let server = Server::start();
        let (mut own, mut redis) = (server.connection(), server.connection());
        let script = redis::Script::new(&Texts::new("PUBLISH").passed);
        let mut look = |number: u64| -> Vec<String> {
            let mut call = script.prepare_invoke();
            call.arg("G:").arg("me").arg("c").arg(number);
            call.invoke(&mut own).expect("an answer")
        };
        let mut tell = |command: &str, arguments: &[&str]| {
            cmd(command).arg(arguments).query::<redis::Value>(&mut redis).expect("an answer");
        };
        tell("HSET", &["G:SESSION:c", "owner", "me"]);
        tell("RPUSH", &["G:V2:PASS:c", "1", "2"]);
        assert_eq!(look(1), ["1", "2"]);
        tell("RPUSH", &["G:V2:PASS:c", "3"]);
        assert_eq!(look(1), ["1", "2", "3"]);
        assert_eq!(look(1), ["1", "2", "3"]);
        assert!(look(2).is_empty());
        // The first is recorded; it does not come again with others.
        tell("LPOP", &["G:V2:TAKEN:c"]);
        tell("RPUSH", &["G:V2:PASS:c", "4"]);
        assert_eq!(look(3), ["4"]);
        assert_eq!(look(3), ["4"]);
        tell("HSET", &["G:SESSION:c", "owner", "another"]);
        assert!(look(3).is_empty());
    }

    /// One node of the group, by its scripts.
    struct Owner {
        name: &'static str,
        redis: Connection,
        texts: Texts,
    }

    impl Owner {
        fn new(server: &Server, name: &'static str) -> Self {
            Self { name, redis: server.connection(), texts: Texts::new("PUBLISH") }
        }

        fn run<T: redis::FromRedisValue>(&mut self, text: &str, arguments: &[&str]) -> T {
            let script = redis::Script::new(text);
            let mut call = script.prepare_invoke();
            call.arg("G:").arg(self.name);
            arguments.iter().for_each(|argument| {
                call.arg(*argument);
            });
            call.invoke(&mut self.redis).expect("an answer")
        }

        fn batch(&mut self, op: &[&str]) -> Vec<Vec<redis::Value>> {
            let text = self.texts.batch.clone();
            self.run(&text, &[&["life"], op].concat())
        }

        /// Takes a client's session, which a live node does not give.
        fn force(&mut self, client: &str, from: &str) {
            self.batch(&["C", client, "0", from, "0", from, "0"]);
        }

        /// Whether it is awake, and what others want of it.
        fn tend(&mut self, has_heeded: bool, count: usize) -> (bool, Vec<String>) {
            let text = self.texts.tend.clone();
            let arguments = ["60000", if has_heeded { "1" } else { "0" }, &count.to_string()];
            let (_, is_awake, wishes): (u8, u8, Vec<String>) = self.run(&text, &arguments);
            (is_awake == 1, wishes)
        }
    }

    /// A group of two nodes that are live, `a:1` and `b:1`; the first has the session of `c`.
    fn group() -> (Server, Connection, [Owner; 2]) {
        let server = Server::start();
        let mut redis = server.connection();
        for (key, value) in [("G:NODE:a", "1"), ("G:NODE:b", "1"), ("G:V2:BORN", "life")] {
            cmd("SET").arg(key).arg(value).query::<()>(&mut redis).expect("an answer");
        }
        let mut owners = ["a:1", "b:1"].map(|name| Owner::new(&server, name));
        owners[0].batch(&["C", "c", "0", "", "0", "", "0"]);
        assert_eq!(owners[0].tend(true, 0), (true, Vec::new()));
        (server, redis, owners)
    }

    #[test]
    fn a_node_that_lost_a_session_is_awake_again_when_it_has_heeded_that() {
        let (_server, mut redis, [mut a, mut b]) = group();
        b.force("c", "a:1 1");
        let awake: u64 = cmd("EXISTS").arg("G:V2:AWAKE:a:1").query(&mut redis).expect("an answer");
        assert_eq!(awake, 0, "it writes nothing from then on");
        let lost = vec!["D 1 c".to_owned()];
        // It has heeded what it found before, not this.
        assert_eq!(a.tend(true, 0), (false, lost.clone()));
        assert_eq!(a.tend(false, 0), (false, lost), "the first answer was lost");
        assert_eq!(a.tend(true, 1), (true, Vec::new()));
        assert_eq!(a.tend(false, 0), (true, Vec::new()));
    }

    #[test]
    fn a_node_that_lost_a_session_is_told_when_every_node_knows_where_it_is() {
        let (_server, mut redis, [mut a, mut b]) = group();
        b.force("c", "a:1 1");
        assert_eq!(a.tend(false, 0).1, ["D 1 c"]);
        b.batch(&["T", "c", "2", "a:1"]);
        // It may have looked before or not.
        assert_eq!(a.tend(false, 0).1, ["K 1 c"]);
        let inbox: Vec<(String, Vec<String>)> = cmd("XRANGE")
            .arg("G:V2:INBOX:a:1")
            .arg("-")
            .arg("+")
            .query(&mut redis)
            .expect("entries");
        assert_eq!(inbox.len(), 1);
        assert_eq!(inbox[0].1, ["f", "known 1 c"]);
        // Whose session is over needs to know nothing more.
        a.batch(&["C", "c", "0", "b:1 2", "0", "b:1 2", "0"]);
        a.batch(&["E", "c", "3"]);
        assert_eq!(b.tend(false, 0).1, ["K 2 c"]);
    }
}
