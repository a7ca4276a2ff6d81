/*
 * Writes all detections and annotations of the open image to corrections.geojson.gz, for `wsiproc import`.
 * For QuPath 0.4 to 0.7. Run it in the script editor.
 */
import static qupath.lib.scripting.QP.*

import java.util.concurrent.FutureTask
import java.util.zip.GZIPOutputStream

import javafx.application.Platform
import javafx.stage.DirectoryChooser
import qupath.lib.io.PathIO

// Where to write: write it here, as new File("C:/results/slide/qupath"), or be asked for it.
def folder = null

folder = folder ?: argumentFolder() ?: askForFolder()
if (folder == null) {
    println 'No folder chosen: nothing was written'
    return
}
def hierarchy = getCurrentHierarchy()
if (hierarchy == null)
    throw new IllegalStateException('Open the image first')
def objects = []
objects.addAll(hierarchy.getAnnotationObjects())
objects.addAll(hierarchy.getDetectionObjects())

def target = new File(folder, 'corrections.geojson.gz')
def unfinished = new File(folder, 'corrections.geojson.gz.unfinished')
// One object a line: it is then read back line by line, however many there are.
new GZIPOutputStream(new BufferedOutputStream(new FileOutputStream(unfinished))).withCloseable { stream ->
    stream.write('{"type":"FeatureCollection","features":[\n'.getBytes('UTF-8'))
    for (int i = 0; i < objects.size(); i++) {
        if (i > 0)
            stream.write(',\n'.getBytes('UTF-8'))
        stream.write(feature(objects[i]).getBytes('UTF-8'))
        if ((i + 1) % 10000 == 0)
            println "${i + 1} of ${objects.size()}"
    }
    stream.write('\n]}\n'.getBytes('UTF-8'))
}
java.nio.file.Files.move(unfinished.toPath(), target.toPath(), java.nio.file.StandardCopyOption.REPLACE_EXISTING)
println "${objects.size()} objects written to ${target}"


/** One object as QuPath writes it, without its children, which are in the list too. */
String feature(object) {
    def bytes = new ByteArrayOutputStream()
    PathIO.exportObjectsAsGeoJSON(bytes, [object], PathIO.GeoJsonExportOptions.FEATURE_COLLECTION)
    def text = new String(bytes.toByteArray(), 'UTF-8')
    return text.substring(text.indexOf('[') + 1, text.lastIndexOf(']')).trim()
}

/** The folder that `QuPath script --args FOLDER` gives, or null. */
File argumentFolder() {
    def given = null
    try {
        given = args
    } catch (MissingPropertyException e) {
        return null
    }
    return given ? new File(given[0].toString()) : null
}

/** The folder that the user chooses, or null. JavaFX alone, since QuPath's own dialogs moved from version to version. */
File askForFolder() {
    def task = new FutureTask<File>({
        def chooser = new DirectoryChooser()
        chooser.setTitle('Folder for corrections.geojson.gz: best the folder qupath of this slide')
        return chooser.showDialog(null)
    })
    if (Platform.isFxApplicationThread())
        task.run()
    else
        Platform.runLater(task)
    return task.get()
}
