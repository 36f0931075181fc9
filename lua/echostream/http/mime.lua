--- Media types by the extension of a file's name.

local M = {}

--- What a name without a known extension is.
M.default = "application/octet-stream"

--- Extension (lower case, without the dot) -> type. May be changed.
---@type table<string, string>
M.types = {}

for type, extensions in pairs {
  ["text/html; charset=utf-8"] = "html htm",
  ["text/css; charset=utf-8"] = "css",
  ["text/javascript; charset=utf-8"] = "js mjs cjs",
  ["text/plain; charset=utf-8"] = "txt text log conf ini lua c h sh",
  ["text/markdown; charset=utf-8"] = "md markdown",
  ["text/csv; charset=utf-8"] = "csv",
  ["text/calendar; charset=utf-8"] = "ics",
  ["text/vtt; charset=utf-8"] = "vtt",
  ["application/json"] = "json map",
  ["application/ld+json"] = "jsonld",
  ["application/manifest+json"] = "webmanifest",
  ["application/xml"] = "xml xsl",
  ["application/xhtml+xml"] = "xhtml",
  ["application/atom+xml"] = "atom",
  ["application/rss+xml"] = "rss",
  ["application/wasm"] = "wasm",
  ["application/pdf"] = "pdf",
  ["application/rtf"] = "rtf",
  ["application/epub+zip"] = "epub",
  ["application/zip"] = "zip",
  ["application/gzip"] = "gz tgz",
  ["application/zstd"] = "zst",
  ["application/x-tar"] = "tar",
  ["application/x-7z-compressed"] = "7z",
  ["application/x-bzip2"] = "bz2",
  ["application/x-xz"] = "xz",
  ["application/yaml"] = "yaml yml",
  ["application/toml"] = "toml",
  ["application/sql"] = "sql",
  ["application/vnd.sqlite3"] = "sqlite sqlite3",
  ["image/svg+xml"] = "svg",
  ["image/png"] = "png",
  ["image/apng"] = "apng",
  ["image/jpeg"] = "jpg jpeg jpe",
  ["image/gif"] = "gif",
  ["image/webp"] = "webp",
  ["image/avif"] = "avif",
  ["image/bmp"] = "bmp",
  ["image/tiff"] = "tif tiff",
  ["image/vnd.microsoft.icon"] = "ico",
  ["font/woff"] = "woff",
  ["font/woff2"] = "woff2",
  ["font/ttf"] = "ttf",
  ["font/otf"] = "otf",
  ["audio/mpeg"] = "mp3",
  ["audio/ogg"] = "ogg oga opus",
  ["audio/wav"] = "wav",
  ["audio/flac"] = "flac",
  ["audio/aac"] = "aac",
  ["audio/mp4"] = "m4a",
  ["audio/midi"] = "mid midi",
  ["video/mp4"] = "mp4 m4v",
  ["video/webm"] = "webm",
  ["video/ogg"] = "ogv",
  ["video/quicktime"] = "mov",
  ["video/x-matroska"] = "mkv",
  ["video/x-msvideo"] = "avi",
  ["video/mp2t"] = "ts",
  ["application/vnd.apple.mpegurl"] = "m3u8",
} do
  for extension in extensions:gmatch "%S+" do
    M.types[extension] = type
  end
end

--- The type of a file of this name.
---@param name string  may be a path
---@return string
function M.by_name(name)
  local extension = name:match "[^/]%.([^./]+)$" -- ".html" is a hidden file, no extension
  return extension and M.types[extension:lower()] or M.default
end

--- Whether bytes of a type get smaller when they are compressed.
---@param type string
---@return boolean
function M.compressible(type)
  type = type:lower():match "^[^;%s]*"
  return type:find "^text/" ~= nil or type:find "[/+]json$" ~= nil or type:find "[/+]xml$" ~= nil
    or type == "application/wasm" or type == "application/yaml" or type == "application/toml" or type == "application/sql"
    or type == "image/bmp" or type == "image/vnd.microsoft.icon" or type == "font/ttf" or type == "font/otf"
end

return M
