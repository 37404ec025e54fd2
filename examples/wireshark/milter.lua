-- The milter protocol (Sendmail, Postfix) for Wireshark and tshark. See README.md beside this file.
--
-- The length of each packet is known from its first four bytes, so packets are put together from their TCP segments. Which
-- side is the mail server says the port where one is configured; else the letters do: commands are capital letters,
-- replies are not, and of the two that have an `O` the mail server's comes first.

local milter = Proto("milter", "Milter protocol")

milter.prefs.port = Pref.range("TCP ports", "8891", "Where milters listen", 65535)

local commands = {
  A = "abort", B = "body", C = "connect", D = "macro", E = "eob", H = "helo", K = "quitNewConnection", L = "header",
  M = "mailFrom", N = "eoh", O = "negotiate", Q = "quit", R = "rcpt", T = "data", U = "unknown",
}
local replies = {
  ["+"] = "addRcpt", ["-"] = "delRcpt", ["2"] = "addRcptPar", ["4"] = "shutdown", O = "negotiate", a = "accept",
  b = "replBody", c = "continue", d = "discard", e = "chgFrom", f = "connFail", h = "addHeader", i = "insHeader",
  l = "setSymList", m = "chgHeader", p = "progress", q = "quarantine", r = "reject", s = "skip", t = "tempFail",
  y = "replyCode",
}
local action_names = {
  { 0x001, "addhdrs" }, { 0x002, "chgbody" }, { 0x004, "addrcpt" }, { 0x008, "delrcpt" }, { 0x010, "chghdrs" },
  { 0x020, "quarantine" }, { 0x040, "chgfrom" }, { 0x080, "addrcpt_par" }, { 0x100, "setsymlist" },
}
local protocol_names = {
  { 0x000001, "noconnect" }, { 0x000002, "nohelo" }, { 0x000004, "nomail" }, { 0x000008, "norcpt" },
  { 0x000010, "nobody" }, { 0x000020, "nohdrs" }, { 0x000040, "noeoh" }, { 0x000080, "nr_hdr" },
  { 0x000100, "nounknown" }, { 0x000200, "nodata" }, { 0x000400, "skip" }, { 0x000800, "rcpt_rej" },
  { 0x001000, "nr_conn" }, { 0x002000, "nr_helo" }, { 0x004000, "nr_mail" }, { 0x008000, "nr_rcpt" },
  { 0x010000, "nr_data" }, { 0x020000, "nr_unkn" }, { 0x040000, "nr_eoh" }, { 0x080000, "nr_body" },
  { 0x100000, "hdr_leadspc" }, { 0x10000000, "mds_256k" }, { 0x20000000, "mds_1m" },
}
local stages = { [0] = "CONNECT", "HELO", "ENVFROM", "ENVRCPT", "DATA", "EOM", "EOH" }
local families = { U = "unknown", L = "Unix socket", ["4"] = "IPv4", ["6"] = "IPv6" }

local fields = {
  length = ProtoField.uint32("milter.length", "Length", base.DEC, nil, nil, "Of what follows: letter and payload"),
  command = ProtoField.string("milter.command", "Command"),
  reply = ProtoField.string("milter.reply", "Reply"),
  code = ProtoField.string("milter.code", "Letter"),
  version = ProtoField.uint32("milter.version", "Version"),
  actions = ProtoField.uint32("milter.actions", "Actions", base.HEX),
  protocol = ProtoField.uint32("milter.protocol", "Protocol", base.HEX),
  macro_stage = ProtoField.string("milter.macro.stage", "Macros of"),
  macro_name = ProtoField.string("milter.macro.name", "Macro"),
  macro_value = ProtoField.string("milter.macro.value", "Value"),
  list_stage = ProtoField.uint32("milter.macro_list.stage", "Macros asked for at", base.DEC, stages),
  list_names = ProtoField.string("milter.macro_list.names", "Macros asked for"),
  hostname = ProtoField.string("milter.hostname", "Host name"),
  family = ProtoField.string("milter.family", "Address family"),
  port = ProtoField.uint16("milter.port", "Port"),
  client_address = ProtoField.string("milter.client_address", "Client's address"),
  helo = ProtoField.string("milter.helo", "HELO name"),
  address = ProtoField.string("milter.address", "Address"),
  args = ProtoField.string("milter.args", "ESMTP argument"),
  header_index = ProtoField.uint32("milter.header.index", "Header index"),
  header_name = ProtoField.string("milter.header.name", "Header name"),
  header_value = ProtoField.string("milter.header.value", "Header value"),
  body = ProtoField.bytes("milter.body", "Body"),
  line = ProtoField.string("milter.line", "Line"),
  text = ProtoField.string("milter.text", "SMTP reply"),
  reason = ProtoField.string("milter.reason", "Reason"),
  payload = ProtoField.bytes("milter.payload", "Payload"),
}
local bits = { actions = {}, protocol = {} }
local all = {}
for _, field in pairs(fields) do all[#all + 1] = field end
local function declare(kind, prefix, names)
  for _, row in ipairs(names) do
    local label = prefix .. row[2]:upper()
    local field = ProtoField.bool("milter." .. kind .. "." .. row[2], label, 32, nil, row[1])
    bits[kind][#bits[kind] + 1] = { row[1], label, field }
    all[#all + 1] = field
  end
end
declare("actions", "SMFIF_", action_names)
declare("protocol", "SMFIP_", protocol_names)
milter.fields = all

local malformed = ProtoExpert.new("milter.malformed", "Malformed packet", expert.group.MALFORMED, expert.severity.ERROR)
local unknown = ProtoExpert.new("milter.unknown_letter", "Unknown letter", expert.group.PROTOCOL, expert.severity.WARN)
milter.experts = { malformed, unknown }

local stream_of = Field.new("tcp.stream")

-- The mail server's end of each TCP stream, as "address port"; known at the first packet of each.
local servers = {}
function milter.init() servers = {} end

-- ---- a payload, field by field --------------------------------------------------------------------------------------

-- A cursor: { tvb, at, tree }. Each of these adds a field and moves on; what is missing is an error, caught below.
local function text(cursor, field)
  if cursor.at >= cursor.tvb:len() then error("a text is missing") end
  local rest = cursor.tvb:range(cursor.at)
  local nul = rest:raw():find("\0", 1, true)
  if nul == nil then error("a text without its NUL") end
  local value = nul == 1 and "" or rest:range(0, nul - 1):string(ENC_UTF_8)
  cursor.tree:add(field, rest:range(0, nul), value)
  cursor.at = cursor.at + nul
  return value
end

local function number(cursor, field, size)
  if cursor.at + size > cursor.tvb:len() then error("a number that is not complete") end
  local range = cursor.tvb:range(cursor.at, size)
  local item = cursor.tree:add(field, range)
  cursor.at = cursor.at + size
  return range:uint(), item, range
end

local function letter(cursor, field, names)
  if cursor.at >= cursor.tvb:len() then error("a letter is missing") end
  local range = cursor.tvb:range(cursor.at, 1)
  local value = range:string()
  local item = cursor.tree:add(field, range, value)
  if names and names[value] then item:append_text(" (" .. names[value] .. ")") end
  cursor.at = cursor.at + 1
  return value
end

local function left(cursor) return cursor.tvb:len() - cursor.at end

local function rest(cursor, field)
  if left(cursor) > 0 then
    cursor.tree:add(field, cursor.tvb:range(cursor.at))
    cursor.at = cursor.tvb:len()
  end
end

local function mask(cursor, kind)
  local value, item, range = number(cursor, fields[kind], 4)
  local set = {}
  for _, row in ipairs(bits[kind]) do
    item:add(row[3], range)
    if bit.band(value, row[1]) ~= 0 then set[#set + 1] = row[2] end
  end
  item:append_text(" (" .. (#set == 0 and "none" or table.concat(set, ", ")) .. ")")
end

local function versions(cursor)
  local version = number(cursor, fields.version, 4)
  mask(cursor, "actions")
  mask(cursor, "protocol")
  return "version " .. version
end

local function address(cursor)
  local value = text(cursor, fields.address)
  while left(cursor) > 0 do text(cursor, fields.args) end
  return value
end

local function header(cursor)
  local name = text(cursor, fields.header_name)
  return name .. ": " .. text(cursor, fields.header_value)
end

local function indexed(cursor)
  local index = number(cursor, fields.header_index, 4)
  return index .. " " .. header(cursor)
end

local function body(cursor)
  local size = left(cursor)
  rest(cursor, fields.body)
  return size .. " bytes"
end

local function one(field)
  return function(cursor) return text(cursor, field) end
end

local dissect = {
  command = {
    negotiate = function(cursor)
      local info = versions(cursor)
      rest(cursor, fields.payload)
      return info
    end,
    macro = function(cursor)
      local stage = letter(cursor, fields.macro_stage, commands)
      local names = {}
      while left(cursor) > 0 do
        names[#names + 1] = text(cursor, fields.macro_name)
        if left(cursor) > 0 then text(cursor, fields.macro_value) end
      end
      return stage .. " " .. table.concat(names, " ")
    end,
    connect = function(cursor)
      local hostname = text(cursor, fields.hostname)
      local family = letter(cursor, fields.family, families)
      if not family:match("[46L]") then
        rest(cursor, fields.payload)
        return hostname
      end
      number(cursor, fields.port, 2)
      return hostname .. " " .. text(cursor, fields.client_address)
    end,
    helo = one(fields.helo),
    mailFrom = address,
    rcpt = address,
    header = header,
    body = body,
    eob = function(cursor) return left(cursor) > 0 and body(cursor) or nil end,
    unknown = one(fields.line),
  },
  reply = {
    negotiate = function(cursor)
      local info = versions(cursor)
      while left(cursor) > 0 do
        number(cursor, fields.list_stage, 4)
        text(cursor, fields.list_names)
      end
      return info
    end,
    addHeader = header,
    insHeader = indexed,
    chgHeader = indexed,
    addRcpt = address,
    addRcptPar = address,
    delRcpt = address,
    chgFrom = address,
    replBody = body,
    quarantine = one(fields.reason),
    replyCode = one(fields.text),
    setSymList = function(cursor)
      number(cursor, fields.list_stage, 4)
      return text(cursor, fields.list_names)
    end,
  },
}

-- ---- packets --------------------------------------------------------------------------------------------------------

local function from_server(pinfo, code)
  local stream = stream_of().value
  local source = tostring(pinfo.src) .. " " .. pinfo.src_port
  local known = servers[stream]
  if known == nil then
    local destination = tostring(pinfo.dst) .. " " .. pinfo.dst_port
    local by_port = pinfo.match_uint ~= 0 and pinfo.src_port ~= pinfo.dst_port
    if by_port and pinfo.match_uint == pinfo.dst_port then
      known = source
    elseif by_port and pinfo.match_uint == pinfo.src_port then
      known = destination
    else
      known = commands[code] and source or destination
    end
    servers[stream] = known
  end
  return known == source
end

local function packet(tvb, pinfo, tree)
  pinfo.cols.protocol = "MILTER"
  local item = tree:add(milter, tvb())
  item:add(fields.length, tvb(0, 4))
  if tvb:len() < 5 then
    item:add_proto_expert_info(malformed, "Malformed packet: it has no letter")
    return tvb:len()
  end
  local code = tvb(4, 1):string()
  local is_command = from_server(pinfo, code)
  local name = (is_command and commands or replies)[code]
  local kind = is_command and "command" or "reply"
  local arrow = is_command and "> " or "< "
  item:add(fields.code, tvb(4, 1), code)
  if name == nil then
    item:add_proto_expert_info(unknown)
    if tvb:len() > 5 then item:add(fields.payload, tvb(5)) end
    item:append_text(", unknown letter " .. code)
    pinfo.cols.info:append(" " .. arrow .. "?" .. code)
    return tvb:len()
  end
  item:add(fields[kind], tvb(4, 1), name)
  item:append_text(", " .. name)
  local cursor = { tvb = tvb, at = 5, tree = item }
  local ok, info = pcall(dissect[kind][name] or function() end, cursor)
  if not ok then
    item:add_proto_expert_info(malformed, "Malformed packet: " .. tostring(info):gsub("^.-:%d+: ", ""))
    info = nil
  elseif left(cursor) > 0 then
    item:add_proto_expert_info(malformed, "Malformed packet: it is longer than its fields")
    rest(cursor, fields.payload)
  end
  info = info and info:gsub("%c", " ") -- a folded header in one line
  if info then item:append_text(": " .. info) end
  pinfo.cols.info:append(" " .. arrow .. name .. (info and " " .. info or ""))
  return tvb:len()
end

local function size_of(tvb, _, offset)
  return 4 + tvb(offset, 4):uint()
end

-- More than anybody may send: these bytes are no packets.
local LARGEST = 4 + 1 + 1048575

function milter.dissector(tvb, pinfo, tree)
  if tvb:len() >= 4 and size_of(tvb, pinfo, 0) > LARGEST then return 0 end
  pinfo.cols.info = ""
  dissect_tcp_pdus(tvb, tree, 4, size_of, packet, true)
  return tvb:len()
end

-- A connection to any other port is known by its offer: 13 bytes or more, an `O`, a version that there is.
local function begins(tvb, pinfo, tree)
  if tvb:len() < 17 or tvb(4, 1):string() ~= "O" then return false end
  local length, version = tvb(0, 4):uint(), tvb(5, 4):uint()
  if length < 13 or length > 1048576 or version < 2 or version > 6 then return false end
  pinfo.conversation = milter
  milter.dissector(tvb, pinfo, tree)
  return true
end

milter:register_heuristic("tcp", begins)

local table_of_ports = DissectorTable.get("tcp.port")
local ports = milter.prefs.port
table_of_ports:add(ports, milter)
function milter.prefs_changed()
  if ports == milter.prefs.port then return end
  table_of_ports:remove(ports, milter)
  ports = milter.prefs.port
  table_of_ports:add(ports, milter)
end
