package qupath.lib.scripting

class Server {
    int width
    int height
}
