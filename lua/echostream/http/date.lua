--- Dates of HTTP (RFC 9110, section 5.6.7). Times are seconds since 1970, UTC.

local M = {}

local days = { "Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed" } -- 1970 began with a Thursday
local months = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" }
local month_numbers, day_names = {}, {}
for i, name in ipairs(months) do
  month_numbers[name] = i
end
for _, name in ipairs(days) do
  day_names[name] = true
end
for _, name in ipairs { "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday" } do
  day_names[name] = true
end
local lengths = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }

-- Days from 1970-01-01 to a date of the Gregorian calendar. Years begin in March here, so that the leap day is the last.
local function days_from(year, month, day)
  if month <= 2 then
    year = year - 1
  end
  local era = year // 400
  local year_of_era = year - era * 400
  local day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
  return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468
end

local function date_from(number)
  number = number + 719468
  local era = number // 146097
  local day_of_era = number - era * 146097
  local year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
  local day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
  local shifted = (5 * day_of_year + 2) // 153
  local month = (shifted + 2) % 12 + 1
  return era * 400 + year_of_era + (month <= 2 and 1 or 0), month, day_of_year - (153 * shifted + 2) // 5 + 1
end

local function is_leap(year)
  return year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)
end

local first, last = days_from(0, 1, 1) * 86400, days_from(10000, 1, 1) * 86400

--- Writes a date: "Sun, 06 Nov 1994 08:49:37 GMT".
---@param seconds number  since 1970; fractions are cut off; the year has to have four digits
---@return string
function M.format(seconds)
  if type(seconds) ~= "number" or not (seconds >= first and seconds < last) then
    error("http.date: wants seconds since 1970 within the years 0 to 9999", 2)
  end
  seconds = seconds // 1 | 0
  local number, rest = seconds // 86400, seconds % 86400
  local year, month, day = date_from(number)
  return ("%s, %02d %s %04d %02d:%02d:%02d GMT"):format(days[number % 7 + 1], day, months[month], year, rest // 3600,
    rest // 60 % 60, rest % 60)
end

-- Seconds, or nil for a date that no calendar has. The 60th second is a leap second.
local function seconds_of(year, month, day, hour, minute, second)
  month = month_numbers[month]
  year, day, hour, minute, second = tonumber(year), tonumber(day), tonumber(hour), tonumber(minute), tonumber(second)
  if not month or day < 1 or day > lengths[month] + (month == 2 and is_leap(year) and 1 or 0) then
    return nil
  elseif hour > 23 or minute > 59 or second > 60 then
    return nil
  end
  return days_from(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
end

--- Reads a date in any of the three forms that a recipient has to know.
---@param text string?
---@param now? number  seconds; two digits of a year that would be over 50 years ahead mean the past. Default: the system's time
---@return integer? seconds  nil: this is no date
function M.parse(text, now)
  if not text then
    return nil
  end
  local name, day, month, year, hour, minute, second = text:match
    "^(%a%a%a), (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$"
  if not name then
    name, day, month, year, hour, minute, second = text:match "^(%a+day), (%d%d)%-(%a%a%a)%-(%d%d) (%d%d):(%d%d):(%d%d) GMT$"
    if name then
      local this = date_from((now or os.time()) // 86400 | 0)
      year = this - this % 100 + tonumber(year)
      if year > this + 50 then
        year = year - 100
      elseif year < this - 49 then
        year = year + 100
      end
    end
  end
  if not name then
    name, month, day, hour, minute, second, year = text:match
      "^(%a%a%a) (%a%a%a) ([ %d]%d) (%d%d):(%d%d):(%d%d) (%d%d%d%d)$"
  end
  if not name or not day_names[name] then
    return nil
  end
  return seconds_of(year, month, day, hour, minute, second)
end

return M
