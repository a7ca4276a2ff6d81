package javafx.stage

class DirectoryChooser {
    static File answer = null
    String title

    File showDialog(Object owner) { answer }
}
